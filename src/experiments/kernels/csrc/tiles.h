// Products by AMX's tiles: 16 x 16 sums of products of bfloat16 pairs, at several times the rate of vectors.
//
// Eight registers: four of sums, two of A's rows, two of B's columns, 32 x 32 sums at a time. Rows and depths
// that fill no whole tile take smaller tiles, so nothing is read beyond an operand. A sum is over K
// in its order, whichever rows are computed together.
#pragma once
#if defined(__AMX_BF16__)
#include "vectors.h"

namespace {

constexpr i64 SIDE = 16;  // rows of a register; units of a row

// What the registers hold until they are set again; other libraries set them too.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};

  // m rows of A, at most 2 * SIDE, and n_units units along K, at most SIDE
  TileShapes(i64 m, i64 n_units) {
    const i64 upper = m < SIDE ? m : SIDE, lower = m - upper;
    for (int i = 0; i < 4; i++) set(i, i < 2 ? upper : lower, SIDE);
    set(4, upper, n_units);
    set(5, lower, n_units);
    set(6, n_units, SIDE);
    set(7, n_units, SIDE);
  }

 private:
  void set(int i, i64 n_rows, i64 n_units) {
    rows[i] = (uint8_t)n_rows;
    bytes[i] = (uint16_t)(n_rows ? n_units * 4 : 0);
  }
};

// The compiler does not know that these instructions read and write memory.
inline void order_memory() { __asm__ volatile("" ::: "memory"); }

// R tiles of rows by C tiles of columns, all of one shape.
template <int R, int C, bool ADD>
inline void tile_block(i64 depth, const uint32_t* a, i64 row, const uint32_t* b, i64 across,
                       i64 next, float* c, i64 ld) {
  float* const lower = c + SIDE * ld;
  if (ADD) {
    _tile_loadd(0, c, ld * 4);
    if (C > 1) _tile_loadd(1, c + SIDE, ld * 4);
    if (R > 1) _tile_loadd(2, lower, ld * 4);
    if (R > 1 && C > 1) _tile_loadd(3, lower + SIDE, ld * 4);
  } else {
    _tile_zero(0);
    if (C > 1) _tile_zero(1);
    if (R > 1) _tile_zero(2);
    if (R > 1 && C > 1) _tile_zero(3);
  }
  for (i64 k = 0; k < depth; k += SIDE) {
    const uint32_t* right = b + k * across;
    _tile_loadd(4, a + k, row * 4);
    _tile_loadd(6, right, across * 4);
    _tile_dpbf16ps(0, 4, 6);
    if (C > 1) {
      _tile_loadd(7, right + next, across * 4);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (R > 1) {
      _tile_loadd(5, a + SIDE * row + k, row * 4);
      _tile_dpbf16ps(2, 5, 6);
      if (C > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, ld * 4);
  if (C > 1) _tile_stored(1, c + SIDE, ld * 4);
  if (R > 1) _tile_stored(2, lower, ld * 4);
  if (R > 1 && C > 1) _tile_stored(3, lower + SIDE, ld * 4);
}

// Rows that one shape of tiles takes: m of them, m a multiple of 2 * SIDE or less than that.
template <bool ADD>
inline void tile_rows(i64 m, i64 width, i64 depth, const uint32_t* a, i64 row, const uint32_t* b,
                      i64 across, i64 next, float* c, i64 ld) {
  const TileShapes shapes(m < 2 * SIDE ? m : 2 * SIDE, depth < SIDE ? depth : SIDE);
  _tile_loadconfig(&shapes);
  for (i64 j = 0; j < width; j += 2 * SIDE)
    for (i64 i = 0; i < m; i += 2 * SIDE) {
      const uint32_t *left = a + i * row, *right = b + j / SIDE * next;
      float* to = c + i * ld + j;
      if (m <= SIDE)
        width - j > SIDE ? tile_block<1, 2, ADD>(depth, left, row, right, across, next, to, ld)
                         : tile_block<1, 1, ADD>(depth, left, row, right, across, next, to, ld);
      else
        width - j > SIDE ? tile_block<2, 2, ADD>(depth, left, row, right, across, next, to, ld)
                         : tile_block<2, 1, ADD>(depth, left, row, right, across, next, to, ld);
    }
}

template <bool ADD>
inline void tile_depth(i64 m, i64 width, i64 depth, const uint32_t* a, i64 row, const uint32_t* b,
                       i64 across, i64 next, float* c, i64 ld) {
  const i64 whole = m / (2 * SIDE) * (2 * SIDE);
  if (whole) tile_rows<ADD>(whole, width, depth, a, row, b, across, next, c, ld);
  a += whole * row;
  c += whole * ld;
  if (m > whole) tile_rows<ADD>(m - whole, width, depth, a, row, b, across, next, c, ld);
}

// C (m, width) (+)= A (m, depth) B (depth, width): width a multiple of SIDE, A's rows `row` units
// apart, B's `across`, and `next` between its columns 0 and SIDE; C's rows `ld` floats.
template <bool ADD>
inline void tile_product(i64 m, i64 width, i64 depth, const uint32_t* a, i64 row, const uint32_t* b,
                         i64 across, i64 next, float* c, i64 ld) {
  const i64 whole = depth / SIDE * SIDE;
  order_memory();
  if (whole) tile_depth<ADD>(m, width, whole, a, row, b, across, next, c, ld);
  if (whole < depth) {
    a += whole;
    b += whole * across;
    if (whole)
      tile_depth<true>(m, width, depth - whole, a, row, b, across, next, c, ld);
    else
      tile_depth<ADD>(m, width, depth, a, row, b, across, next, c, ld);
  }
  order_memory();
}

}  // namespace
#endif
