// Scores of tiles of queries against blocks of packed keys, in float32 or, to screen them, in bfloat16.
#pragma once
#include "tiles.h"
#include "vectors.h"

#include <float.h>

namespace {

#if defined(__AVX512F__)
constexpr int PANELS = 4;  // of W keys each, scored together with 6 queries in registers
#else
constexpr int PANELS = 2;
#endif
constexpr i64 BLOCK = PANELS * W;
#if defined(__AVX512BF16__)
constexpr bool SCREENS = true;
#else
constexpr bool SCREENS = false;
#endif
constexpr float SCREEN = 2 * 1.01f / 256;

inline i64 min64(i64 a, i64 b) { return a < b ? a : b; }
inline i64 up(i64 n, i64 unit) { return (n + unit - 1) / unit * unit; }

// |x|, also where its square is no float.
inline float length(const float* x, i64 n) {
  const float square = dot_row(x, x, n);
  if (square > 1e-30f && square < FLT_MAX) return sqrtf(square);
  double exact = 0;
  for (i64 i = 0; i < n; i++) exact += (double)x[i] * x[i];
  return (float)sqrt(exact);
}

// How far below its bound the screened score of a winner can be.
inline float slack_of(float query, float longest_key, i64 width) {
  return SCREEN * query * longest_key + 4 * width * FLT_MIN * (1 + query + longest_key);
}

#if defined(__AVX512BF16__)

typedef uint16_t Packed;
typedef uint32_t Query;  // pairs of bfloat16

inline i64 columns_of(i64 width) { return up(width, 2); }

// Keys (n, width) as bfloat16 in panels of 16: [panel][width / 2][16 keys][2], zero where padded.
inline void pack(const float* keys, i64 n, i64 width, uint16_t* out) {
  const i64 pairs = (width + 1) / 2, whole = width / 16 * 16;
  for (i64 key = 0; key < up(n, BLOCK); key++) {
    uint16_t* to = out + (key / 16 * pairs * 16 + key % 16) * 2;  // pairs of a key are 16 pairs apart
    uint32_t some[8] = {};
    for (i64 column = 0; column < 2 * pairs; column += 16) {
      if (key < n && column < whole) {
        const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(keys + key * width + column));
        memcpy(some, &half, 32);
      } else {
        for (i64 e = 0; e < 16; e++) {
          bf16 value = {0};
          if (key < n && column + e < width) store1(&value, keys[key * width + column + e]);
          memcpy((uint16_t*)some + e, &value, 2);
        }
      }
      for (i64 c = 0; c < min64(8, pairs - column / 2); c++)
        memcpy(to + (column / 2 + c) * 32, some + c, 4);
    }
  }
}

// bfloat16, with a zero behind if there is an odd number.
inline void shorten(const float* from, i64 n, uint16_t* to) {
  i64 i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
    memcpy(to + i, &half, 32);
  }
  for (; i < n; i++) store1((bf16*)to + i, from[i]);
  if (n % 2) to[n] = 0;
}

#if defined(__AMX_BF16__)

// Scores of n queries, `apart` from each other, against a block of keys.
inline void score_queries(i64 n, const uint32_t* queries, i64 apart, const uint16_t* keys, i64 width,
                          float* out, i64 stride) {
  const i64 pairs = (width + 1) / 2;
  tile_product<false>(n, BLOCK, pairs, queries, apart, (const uint32_t*)keys, 16, 16 * pairs, out, stride);
}

#else

template <int R>
inline void score_block(const uint32_t* queries, i64 apart, const uint16_t* keys, i64 width,
                        float* out, i64 stride) {
  const i64 pairs = (width + 1) / 2;
  __m512 acc[R][PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) acc[r][p] = _mm512_setzero_ps();
  for (i64 c = 0; c < pairs; c++) {
    __m512i key[PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++)
      key[p] = _mm512_loadu_si512(keys + (p * pairs + c) * 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512bh q = (__m512bh)_mm512_set1_epi32((int)queries[r * apart + c]);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; p++)
        acc[r][p] = _mm512_dpbf16_ps(acc[r][p], q, (__m512bh)key[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) _mm512_storeu_ps(out + r * stride + p * 16, acc[r][p]);
}

#endif

#else

typedef float Packed;
typedef float Query;

inline i64 columns_of(i64 width) { return width; }

// Keys (n, width) in blocks: [block][width][BLOCK], zero where padded.
inline void pack(const float* keys, i64 n, i64 width, float* out) {
  for (i64 from = 0; from < up(n, BLOCK); from += BLOCK)
    for (i64 i = 0; i < BLOCK; i++)
      for (i64 c = 0; c < width; c++)
        out[(from * width) + c * BLOCK + i] = from + i < n ? keys[(from + i) * width + c] : 0;
}

template <int R>
inline void score_block(const float* queries, i64 apart, const float* keys, i64 width, float* out,
                        i64 stride) {
  vec acc[R][PANELS] = {};
  for (i64 c = 0; c < width; c++) {
    vec key[PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) key[p] = load(keys + c * BLOCK + p * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vec q = splat(queries[r * apart + c]);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; p++) acc[r][p] += q * key[p];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) store(out + r * stride + p * W, acc[r][p]);
}

#endif

#if !defined(__AMX_BF16__)
// Scores of n queries, `apart` from each other, against a block of keys.
inline void score_queries(i64 n, const Query* queries, i64 apart, const Packed* keys, i64 width,
                          float* out, i64 stride) {
  i64 t = 0;
  for (; t + 6 <= n; t += 6)
    score_block<6>(queries + t * apart, apart, keys, width, out + t * stride, stride);
  for (; t < n; t++)
    score_block<1>(queries + t * apart, apart, keys, width, out + t * stride, stride);
}
#endif

}  // namespace
