// What one level of processor offers: vectors of W floats, loads of float and bfloat16 rows.
//
// Every source here is compiled once a level (build.py) and its functions end in the level's name.
// No header of torch or of C++'s library is included: an inline function of theirs, compiled for
// AVX-512, could be the one that the linker keeps for all levels.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) void JOIN(name, LEVEL)

// For loops whose sums are to stay in registers, and for what streams a row to memory: on a Zen 4 a call
// between such rows halves their rate.
#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define W 16   // floats a vector
#define NV 16  // vectors that stay in registers beside what is being loaded
#elif defined(__AVX2__)
#define W 8
#define NV 8
#else
#define W 4
#define NV 4
#endif

namespace {

typedef float vec __attribute__((vector_size(4 * W)));
typedef uint32_t uvec __attribute__((vector_size(4 * W)));
typedef uint16_t hvec __attribute__((vector_size(2 * W)));
struct bf16 {
  uint16_t bits;
};
typedef int64_t i64;

inline vec load(const float* p) {
  vec v;
  memcpy(&v, p, sizeof v);
  return v;
}

inline vec load(const bf16* p) {
  hvec h;
  memcpy(&h, p, sizeof h);
  uvec wide = __builtin_convertvector(h, uvec) << 16;
  vec v;
  memcpy(&v, &wide, sizeof v);
  return v;
}

inline void store(float* p, vec v) { memcpy(p, &v, sizeof v); }

inline float load1(const float* p) { return *p; }

inline float load1(const bf16* p) {
  uint32_t wide = (uint32_t)p->bits << 16;
  float f;
  memcpy(&f, &wide, 4);
  return f;
}

inline float sum(vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#endif
  float lanes[W];
  memcpy(lanes, &v, sizeof v);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

template <class T>
inline float dot_row(const float* x, const T* row, i64 d) {
  vec a = {}, b = {}, c = {}, e = {};
  i64 i = 0;
  for (; i + 4 * W <= d; i += 4 * W) {
    a += load(x + i) * load(row + i);
    b += load(x + i + W) * load(row + i + W);
    c += load(x + i + 2 * W) * load(row + i + 2 * W);
    e += load(x + i + 3 * W) * load(row + i + 3 * W);
  }
  for (; i + W <= d; i += W) a += load(x + i) * load(row + i);
  float rest = 0;
  for (; i < d; i++) rest += x[i] * load1(row + i);
  return sum((a + b) + (c + e)) + rest;
}

// Not vec{} + x, which adds: a zero of either sign is not nothing to the compiler.
inline vec splat(float x) {
#if defined(__AVX512F__)
  return (vec)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (vec)_mm256_set1_ps(x);
#else
  return vec{x, x, x, x};
#endif
}

inline uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

// To the nearest, ties to even; NaN stays one.
inline void store1(bf16* p, float f) {
  uint32_t u = bits_of(f);
  p->bits = f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline void store1(float* p, float f) { *p = f; }

// Into the second-level cache: the first has room for few misses in flight, and that bounds the
// rate of random rows.
inline void prefetch(const void* row, i64 bytes) {
  const char* p = (const char*)row;
  for (i64 i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// Past the caches, for what is written once and read much later; p is aligned to a vector.
inline void stream(float* p, vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#else
  store(p, v);
#endif
}

inline void stream_end() {
#if defined(__AVX512F__) || defined(__AVX2__)
  _mm_sfence();
#endif
}

inline int thread_id() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int team_size() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

}  // namespace
