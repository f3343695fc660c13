// Products of matrices: C (M, N) = A (M, K) B (K, N), or added to what C holds.
//
// B is packed into panels of PANEL columns, [panel][K][columns]. A is read where it is, by two
// strides, so that a product with a transposed matrix copies nothing. An element of C is one sum over
// K in its order, whichever rows and panels are computed together: the same to the bit for any number
// of threads and any cut into tiles.
//
// Two precisions (struct Float32, struct BFloat16): operands as they are, or rounded to bfloat16; sums
// are float32. Where the processor multiplies bfloat16, operands are pairs along K, and where it has
// tiles (tiles.h), they are what multiplies them. Elsewhere they are rounded and multiplied as floats: the
// same products, at float32's rate.
#pragma once
#include "tiles.h"
#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int PANEL_VECTORS = 4;
#else
constexpr int PANEL_VECTORS = 2;
#endif
constexpr i64 PANEL = PANEL_VECTORS * W;
constexpr i64 TAIL = 48;  // rows at once of the last columns
constexpr i64 UNIT = 16;  // widths inside are multiples of it

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
inline i64 up_to(i64 n, i64 unit) { return (n + unit - 1) / unit * unit; }

inline float rounded(float x) {
  bf16 half;
  store1(&half, x);
  return load1(&half);
}

// To bfloat16 and back, to the nearest, ties to even; NaN stays one.
inline vec rounded(vec x) {
  uvec bits;
  memcpy(&bits, &x, sizeof x);
  uvec to = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  vec near;
  memcpy(&near, &to, sizeof x);
  return x == x ? near : x;
}

struct Float32 {
  typedef float Unit;               // of A; W of them make a vector of B
  static constexpr i64 DEPTH = 1;   // entries along K in one unit
  static constexpr bool COPIES = false;
  static inline void madd(vec& sum, Unit a, const Unit* b) { sum += splat(a) * load(b); }
  static inline void put(Unit* out, const float* upper, const float*) { store(out, load(upper)); }
  static inline Unit join(float upper, float) { return upper; }
};

#if defined(__AVX512BF16__)
struct BFloat16 {
  typedef uint32_t Unit;
  static constexpr i64 DEPTH = 2;
  static constexpr bool COPIES = true;
  static inline void madd(vec& sum, Unit a, const Unit* b) {
    sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a),
                                (__m512bh)_mm512_loadu_si512(b));
  }
  static inline __m512i half(const float* p) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(p)));
  }
  // W pairs (upper[i], lower[i]); lower may be null, for zeros
  static inline void put(Unit* out, const float* upper, const float* lower) {
    __m512i pair = half(upper);
    if (lower) pair = _mm512_or_si512(pair, _mm512_slli_epi32(half(lower), 16));
    _mm512_storeu_si512(out, pair);
  }
  static inline Unit join(float upper, float lower) {
    bf16 a, b;
    store1(&a, upper);
    store1(&b, lower);
    return (Unit)a.bits | (Unit)b.bits << 16;
  }
};
#else
struct BFloat16 {
  typedef float Unit;
  static constexpr i64 DEPTH = 1;
  static constexpr bool COPIES = true;
  static inline void madd(vec& sum, Unit a, const Unit* b) { sum += splat(a) * load(b); }
  static inline void put(Unit* out, const float* upper, const float*) {
    store(out, rounded(load(upper)));
  }
  static inline Unit join(float upper, float) { return rounded(upper); }
};
#endif

// ---------------------------------------------------------------------------------- operands

// A matrix as the left operand: entry (i, k) of it is in unit at[i * row + k / DEPTH * step].
template <class P>
struct Left {
  const typename P::Unit* at;
  i64 row, step;
};

#if defined(__AMX_BF16__)
// Rows of a tile a power of two apart would share a few sets of the first cache.
constexpr i64 ROW_GAP = UNIT;
#else
constexpr i64 ROW_GAP = 0;
#endif

// Units that left_rows() and left_columns() may need.
inline i64 left_units(i64 m, i64 k) { return m * (up_to(k, UNIT) + UNIT) + UNIT; }

// The rows of x (m, k), k a multiple of UNIT, `ld` apart. room: of left_units(m, k).
template <class P>
inline Left<P> left_rows(const float* x, i64 m, i64 k, i64 ld, typename P::Unit* room) {
  if constexpr (!P::COPIES) {
    return {x, ld, 1};
  } else {
    const i64 row = k / P::DEPTH + ROW_GAP;
    for (i64 i = 0; i < m; i++) {
      typename P::Unit* out = room + i * row;
      const float* from = x + i * ld;
#if defined(__AVX512BF16__)
      for (i64 c = 0; c < k; c += 16) {
        const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + c));
        memcpy((uint16_t*)out + c, &half, 32);
      }
#else
      for (i64 c = 0; c < k; c += W) store(out + c, rounded(load(from + c)));
#endif
    }
    return {room, row, 1};
  }
}

#if defined(__AVX512F__)
// Sixteen rows of units, `ld` apart, become columns, `across` apart; n (at most 16) of each row.
inline void transpose(const uint32_t* from, i64 ld, i64 n, uint32_t* to, i64 across) {
  __m512i a[16], b[16];
  const __mmask16 mask = (__mmask16)((1u << n) - 1);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) a[i] = _mm512_maskz_loadu_epi32(mask, from + i * ld);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // of each 128 bits: 4 rows of one column
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {  // columns i, 4 + i, 8 + i, 12 + i
    const __m512i even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    b[i] = _mm512_shuffle_i32x4(even, even2, 0x88);
    b[4 + i] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
    b[8 + i] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    b[12 + i] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++)
    if (i < n) _mm512_storeu_si512(to + i * across, b[i]);
}
#endif

// The transpose of x (k, m), its rows `ld` apart: m rows, k columns. m a multiple of W.
// Rows 1 KB apart would share a few sets of the first cache: those are copied.
template <class P>
inline Left<P> left_columns(const float* x, i64 k, i64 m, i64 ld, typename P::Unit* room) {
#if defined(__AMX_BF16__)
  if constexpr (P::COPIES) {  // tiles read rows of pairs
    const i64 pairs = (k + 1) / 2, row = up_to(pairs, W) + (pairs > W ? ROW_GAP : 0);
    uint32_t some[W * W];
    for (i64 p = 0; p < pairs; p += W)
      for (i64 c = 0; c < m; c += W) {
        for (i64 i = 0; i < W; i++) {
          const i64 upper = 2 * (p + i);
          const float* from = x + upper * ld + c;
          if (upper < k)
            P::put(some + i * W, from, upper + 1 < k ? from + ld : nullptr);
          else
            _mm512_storeu_si512(some + i * W, _mm512_setzero_si512());
        }
        transpose(some, W, W, room + c * row + p, row);
      }
    return {room, row, 1};
  }
#endif
  if (!P::COPIES && ld % 128) return {(const typename P::Unit*)x, 1, ld};
  const i64 step = m + UNIT;
  for (i64 i = 0; i < k; i += P::DEPTH)
    for (i64 c = 0; c < m; c += W)
      P::put(room + i / P::DEPTH * step + c, x + i * ld + c,
             i + 1 < k ? x + (i + 1) * ld + c : nullptr);
  return {room, 1, step};
}

// Units of a packed (k, n).
inline i64 packed_units(i64 k, i64 n) { return up_to(k, UNIT) * up_to(n, UNIT); }

// B (k, n) whose row i is at b + i * ld, columns [from, to) of it, from a multiple of PANEL; zero
// where it is padded to k_pad and to UNIT columns. times: a factor.
template <class P>
inline void pack(const float* b, i64 k, i64 n, i64 ld, i64 k_pad, i64 from, i64 to, float times,
                 typename P::Unit* out) {
  const i64 padded = up_to(n, UNIT);
  float tail[2][PANEL];
  for (i64 j = from; j < to; j += PANEL) {
    const i64 width = least(PANEL, padded - j), valid = least(width, n - j);
    typename P::Unit* panel = out + j * (k_pad / P::DEPTH);
    for (i64 i = 0; i < k_pad; i += P::DEPTH) {
      const float* row[2] = {};
      for (i64 e = 0; e < P::DEPTH; e++) {
        const float* own = b + (i + e) * ld + j;
        if (i + e < k && valid == width && times == 1) {
          row[e] = own;
          continue;
        }
        for (i64 c = 0; c < width; c++) tail[e][c] = i + e < k && c < valid ? times * own[c] : 0;
        row[e] = tail[e];
      }
      for (i64 c = 0; c < width; c += W)
        P::put(panel + i / P::DEPTH * width + c, row[0] + c, row[1] ? row[1] + c : nullptr);
    }
  }
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// Eight rows of floats, `ld` apart, become columns of units, `across` apart.
template <class P>
inline void transpose(const float* from, i64 ld, float* to, i64 across) {
  __m256 a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + i * ld);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const vec low = (vec)_mm256_permute2f128_ps(a[i], a[4 + i], 0x20);
    const vec high = (vec)_mm256_permute2f128_ps(a[i], a[4 + i], 0x31);
    store(to + i * across, P::COPIES ? rounded(low) : low);
    store(to + (4 + i) * across, P::COPIES ? rounded(high) : high);
  }
}
#endif

// The same of the transpose of b (n, k).
template <class P>
inline void pack_transposed(const float* b, i64 k, i64 n, i64 ld, i64 k_pad, i64 from, i64 to,
                            float times, typename P::Unit* out) {
  const i64 padded = up_to(n, UNIT);
  for (i64 j = from; j < to; j += PANEL) {
    const i64 width = least(PANEL, padded - j);
    typename P::Unit* panel = out + j * (k_pad / P::DEPTH);
#if defined(__AVX512F__)
    if (j + width <= n && k == k_pad && times == 1) {  // sixteen rows at a time
      typename P::Unit copy[16 * UNIT * 4];
      for (i64 c = 0; c < width; c += 16)
        for (i64 i = 0; i < k; i += 64) {
          const i64 some = least(64, k - i), units = some / P::DEPTH;
          const Left<P> rows = left_rows<P>(b + (j + c) * ld + i, 16, some, ld, copy);
          for (i64 u = 0; u < units; u += 16)
            transpose((const uint32_t*)rows.at + u, rows.row, least(16, units - u),
                      (uint32_t*)panel + (i / P::DEPTH + u) * width + c, width);
        }
      continue;
    }
#elif defined(__AVX2__)
    if (j + width <= n && k == k_pad && k % 8 == 0 && times == 1 && P::DEPTH == 1) {
      for (i64 c = 0; c < width; c += 8)
        for (i64 i = 0; i < k; i += 8) transpose<P>(b + (j + c) * ld + i, ld, panel + i * width + c, width);
      continue;
    }
#endif
    for (i64 c = 0; c < width; c++) {
      const float* row = b + (j + c) * ld;
      const bool there = j + c < n;
      const i64 whole = there ? k / P::DEPTH * P::DEPTH : 0;
      for (i64 i = 0; i < whole; i += P::DEPTH)
        panel[i / P::DEPTH * width + c] =
            P::join(times * row[i], times * row[i + P::DEPTH - 1]);
      for (i64 i = whole; i < k_pad; i += P::DEPTH)
        panel[i / P::DEPTH * width + c] = P::join(there && i < k ? times * row[i] : 0, 0);
    }
  }
}

// ---------------------------------------------------------------------------------- the product

// across: units between rows of B, which is packed in panels that may be wider than what is summed
#if defined(__AVX512F__)
template <class P, int R, int C, bool ADD>
inline void block(i64 depth, const Left<P>& a, const typename P::Unit* b, i64 across, float* c,
                  i64 ld) {
  vec sum[R][C];
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) sum[r][j] = ADD ? load(c + r * ld + j * W) : vec{};
  for (i64 k = 0; k < depth; k++) {
#pragma GCC unroll 24
    for (int r = 0; r < R; r++) {
      const typename P::Unit one = a.at[r * a.row + k * a.step];
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) P::madd(sum[r][j], one, b + k * across + j * W);
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) store(c + r * ld + j * W, sum[r][j]);
}
#else
// Sums begin at zero and what C holds is added at the end: so the compiler keeps all of them in registers,
// and nothing waits for C. A's rows are units apart (ROWS), or its columns are.
template <class P, int R, int C, bool ADD, bool ROWS>
INLINE void block_of(i64 depth, const typename P::Unit* a, i64 apart, const typename P::Unit* b,
                     i64 across, float* c, i64 ld) {
  vec sum[R][C];
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) sum[r][j] = vec{};
  for (i64 k = 0; k < depth; k++) {
    vec right[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) right[j] = load(b + j * W);
#pragma GCC unroll 24
    for (int r = 0; r < R; r++) {
      const vec one = splat(a[ROWS ? r * apart : r]);
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) sum[r][j] += one * right[j];
    }
    a += ROWS ? 1 : apart;
    b += across;
  }
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) {
      float* to = c + r * ld + j * W;
      store(to, ADD ? load(to) + sum[r][j] : sum[r][j]);
    }
}

template <class P, int R, int C, bool ADD>
inline void block(i64 depth, const Left<P>& a, const typename P::Unit* b, i64 across, float* c,
                  i64 ld) {
  if (a.step == 1)
    block_of<P, R, C, ADD, true>(depth, a.at, a.row, b, across, c, ld);
  else
    block_of<P, R, C, ADD, false>(depth, a.at, a.step, b, across, c, ld);
}
#endif

template <class P, int C, bool ADD>
inline void panel_rows(i64 m, i64 depth, Left<P> a, const typename P::Unit* b, i64 across, float* c,
                       i64 ld) {
  // as many sums as registers hold beside the operands
  constexpr int R = PANEL_VECTORS == 2 ? (C == 2 ? 6 : 12) : (C == 4 ? 6 : C == 3 ? 8 : C == 2 ? 12 : 20);
  constexpr int FEW = R > 6 ? 4 : 2;
  const typename P::Unit* end = a.at + m * a.row;
  for (; m >= R; m -= R, a.at += R * a.row, c += R * ld) block<P, R, C, ADD>(depth, a, b, across, c, ld);
  for (; m >= FEW; m -= FEW, a.at += FEW * a.row, c += FEW * ld)
    block<P, FEW, C, ADD>(depth, a, b, across, c, ld);
  for (; a.at != end; a.at += a.row, c += ld) block<P, 1, C, ADD>(depth, a, b, across, c, ld);
}

template <class P, bool ADD>
inline void one_panel(i64 m, i64 width, i64 depth, const Left<P>& a, const typename P::Unit* b,
                      i64 across, float* c, i64 ld) {
#if defined(__AMX_BF16__)
  if constexpr (P::COPIES) return tile_product<ADD>(m, width, depth, a.at, a.row, b, across, SIDE, c, ld);
#endif
  switch (width / W) {
#if defined(__AVX512F__)
    case 4: return panel_rows<P, 4, ADD>(m, depth, a, b, across, c, ld);
    case 3: return panel_rows<P, 3, ADD>(m, depth, a, b, across, c, ld);
#endif
    case 2: return panel_rows<P, 2, ADD>(m, depth, a, b, across, c, ld);
    default: return panel_rows<P, 1, ADD>(m, depth, a, b, across, c, ld);
  }
}

// A right operand: panel j of it begins at at[j * panel], and its rows are `across` units apart; 0: as
// many as the panel has columns, which is how pack() leaves it.
template <class P>
struct Right {
  const typename P::Unit* at;
  i64 panel, across;
};

// What pack() or pack_transposed() has written to k_pad along K.
template <class P>
inline Right<P> packed(const typename P::Unit* at, i64 k_pad) {
  return {at, k_pad / P::DEPTH * PANEL, 0};
}

// The rows of b (k, n), ld apart: where they are if they may be read so, to a multiple of UNIT columns;
// else packed into room, of packed_units(k, n).
template <class P>
inline Right<P> right_rows(const float* b, i64 k, i64 n, i64 ld, bool where_it_is,
                           typename P::Unit* room) {
  if constexpr (!P::COPIES)
    if (where_it_is) return {b, PANEL, ld};
  const i64 k_pad = up_to(k, P::DEPTH);
  pack<P>(b, k, n, ld, k_pad, 0, up_to(n, UNIT), 1, room);
  return packed<P>(room, k_pad);
}

// multiply() of rows and units that stay in the first cache while panels of B pass by.
template <class P, bool ADD>
inline void multiply_part(i64 m, i64 n, i64 k, i64 depth, const Left<P>& a, const Right<P>& b,
                          float* c, i64 ld, i64 n_packed) {
  float tail[TAIL][PANEL];
  for (i64 j = 0; j < n; j += PANEL) {
    const i64 width = least(PANEL, up_to(n - j, UNIT)), valid = least(width, n - j);
    const i64 across = b.across ? b.across : least(PANEL, n_packed - j);
    const typename P::Unit* panel = b.at + j / PANEL * b.panel + k * across;
    if (valid == width) {
      one_panel<P, ADD>(m, width, depth, a, panel, across, c + j, ld);
      continue;
    }
    for (i64 i = 0; i < m; i += TAIL) {  // the last columns, through room for whole vectors
      const i64 rows = least(TAIL, m - i);
      for (i64 r = 0; r < rows; r++)
        for (i64 q = 0; ADD && q < width; q++) tail[r][q] = q < valid ? c[(i + r) * ld + j + q] : 0;
      one_panel<P, ADD>(rows, width, depth, {a.at + i * a.row, a.row, a.step}, panel, across, tail[0],
                        PANEL);
      for (i64 r = 0; r < rows; r++)
        memcpy(c + (i + r) * ld + j, tail[r], valid * sizeof(float));
    }
  }
}

#if defined(__AMX_BF16__)
constexpr i64 PART_ROWS = 96, PART_DEPTH = 256;
#elif defined(__AVX512F__)
constexpr i64 PART_ROWS = 48, PART_DEPTH = 128;
#else
constexpr i64 PART_ROWS = 192, PART_DEPTH = 256;  // a panel stays in the first cache, A in the second
#endif

// C (m, n) (+)= A (m, k) B (k, n), over the first `depth` units of A and of B. n: columns that are
// written, the first of n_packed. Rows of c are ld apart.
template <class P, bool ADD>
inline void multiply(i64 m, i64 n, i64 depth, const Left<P>& a, const Right<P>& b, float* c, i64 ld,
                     i64 n_packed = 0) {
  if (!n_packed) n_packed = up_to(n, UNIT);
  for (i64 k = 0; k < depth; k += PART_DEPTH) {
    const i64 some = least(PART_DEPTH, depth - k);
    for (i64 i = 0; i < m; i += PART_ROWS) {
      const i64 rows = least(PART_ROWS, m - i);
      const Left<P> part{a.at + i * a.row + k * a.step, a.row, a.step};
      if (ADD || k)
        multiply_part<P, true>(rows, n, k, some, part, b, c + i * ld, ld, n_packed);
      else
        multiply_part<P, false>(rows, n, k, some, part, b, c + i * ld, ld, n_packed);
    }
  }
}

// The same of a packed B.
template <class P, bool ADD>
inline void multiply(i64 m, i64 n, i64 depth, const Left<P>& a, const typename P::Unit* b, i64 k_pad,
                     float* c, i64 ld, i64 n_packed = 0) {
  multiply<P, ADD>(m, n, depth, a, packed<P>(b, k_pad), c, ld, n_packed);
}

// ---------------------------------------------------------------------------------- room

// Hands out parts of one block of memory, which begins at a multiple of 64; without one it counts.
struct Arena {
  char* base;
  i64 used = 0;
  template <class T>
  T* take(i64 n) {
    T* part = base ? (T*)(base + used) : nullptr;
    used += up_to(n * (i64)sizeof(T), 64);
    return part;
  }
  // Of room for n_threads times `each` bytes behind what is used, the calling thread's.
  Arena of_thread(i64 each) const { return {base + used + thread_id() * each}; }
};

}  // namespace
