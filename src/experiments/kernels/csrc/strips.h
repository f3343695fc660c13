// Rows of any width in strips of vectors: the widest first, single floats last.
#pragma once
#include "vectors.h"

namespace {

template <class V, int N>
struct Strip {
  typedef V Vector;
  static constexpr int COUNT = N;
  static constexpr int64_t EACH = sizeof(V) / sizeof(float);
  int64_t from;
};

// Calls f with each strip of a row. What is summed a strip at a time can stay in registers.
template <class F>
INLINE void in_strips(int64_t width, F f) {
  typedef float eight __attribute__((vector_size(32)));
  typedef float four __attribute__((vector_size(16)));
  typedef float one __attribute__((vector_size(4)));
  int64_t c = 0;
  if constexpr (NV >= 16)
    for (; c + 16 * W <= width; c += 16 * W) f(Strip<vec, 16>{c});
  for (; c + 8 * W <= width; c += 8 * W) f(Strip<vec, 8>{c});
  for (; c + 4 * W <= width; c += 4 * W) f(Strip<vec, 4>{c});
  for (; c + 2 * W <= width; c += 2 * W) f(Strip<vec, 2>{c});
  for (; c + W <= width; c += W) f(Strip<vec, 1>{c});
  if constexpr (W > 8)
    for (; c + 8 <= width; c += 8) f(Strip<eight, 1>{c});
  if constexpr (W > 4)
    for (; c + 4 <= width; c += 4) f(Strip<four, 1>{c});
  for (; c < width; c++) f(Strip<one, 1>{c});
}

template <class V>
inline V load_as(const float* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
inline void store_as(float* p, V v) {
  memcpy(p, &v, sizeof v);
}

// Of the last vector of n floats the n - i that are there.
inline vec load_some(const float* p, int64_t n) {
  if (n >= W) return load(p);
  float lanes[W] = {};
  memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}

inline void store_some(float* p, vec v, int64_t n) {
  if (n >= W) return store(p, v);
  float lanes[W];
  store(lanes, v);
  memcpy(p, lanes, n * sizeof(float));
}

}  // namespace
