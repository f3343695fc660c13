// The shared parts of the trunk's half-blocks: tiles of tokens, RMS norm, the residual stream.
//
// Every function has two precisions of its products, and is the same to the bit for any number of
// threads: a tile's rows are one thread's, and what is summed over tokens is summed over tiles in
// their order, each thread having rows of the sum of its own.
#pragma once
#include "products.h"

namespace {

constexpr i64 TOKENS = 96;  // a tile's: a multiple of the rows that a product takes at once

// y = x * rms(x)^-1 * w, the rows d wide; inverse: 1 / rms of each row.
inline void norm_rows(i64 m, i64 d, const float* x, const float* w, float eps, float* y,
                      float* inverse) {
  for (i64 i = 0; i < m; i++, x += d, y += d) {
    vec square = {};
    for (i64 c = 0; c < d; c += W) square += load(x + c) * load(x + c);
    const float r = 1 / sqrtf(sum(square) / d + eps);
    if (inverse) inverse[i] = r;
    for (i64 c = 0; c < d; c += W) store(y + c, load(x + c) * r * load(w + c));
  }
}

// dx += the gradient of x, dw += that of w, given dy.
inline void norm_rows_backward(i64 m, i64 d, const float* x, const float* w, const float* inverse,
                               const float* dy, float* dx, float* dw) {
  for (i64 i = 0; i < m; i++, x += d, dy += d, dx += d) {
    const float r = inverse[i];
    vec along = {};
    for (i64 c = 0; c < d; c += W) {
      const vec g = load(dy + c), v = load(x + c);
      along += g * load(w + c) * v;
      store(dw + c, load(dw + c) + g * v * r);
    }
    const float back = -sum(along) * r * r * r / d;
    for (i64 c = 0; c < d; c += W)
      store(dx + c, load(dx + c) + load(dy + c) * load(w + c) * r + load(x + c) * back);
  }
}

inline void fill(float* out, i64 n, float value) {
  for (i64 i = 0; i < n; i++) out[i] = value;
}

// Rows [from, to) of `rows` that the calling thread computes of a sum over tokens: multiples of 12,
// which are whole blocks of a product.
inline void own_rows(i64 rows, i64* from, i64* to) {
  const i64 each = up_to((rows + team_size() - 1) / team_size(), 12);
  *from = least(rows, each * thread_id());
  *to = least(rows, *from + each);
}

// For a sum over tokens each thread reads what all have packed of their tiles: the Operands of a
// tile, and the Lefts among them, as left_columns() has them.
template <class Operands, class Lefts, class Shape>
struct Tiles {
  const Shape& s;
  Lefts* lefts;
  i64 bytes;
  char* at;

  Tiles(Arena& arena, const Shape& shape, i64 n_threads)
      : s(shape), lefts(arena.take<Lefts>(n_threads)) {
    Arena one{nullptr};
    const Operands measured(one, s);
    bytes = one.used;
    at = arena.take<char>(n_threads * bytes);
  }

  Operands of(i64 slot) const {
    Arena part{at + slot * bytes};
    return Operands(part, s);
  }
};

// dw (rows, columns) += the sum over a tile's m tokens of left^T right: `left` (m, rows) as
// left_columns() has it, right packed.
template <class P>
inline void add_outer(i64 m, i64 rows, i64 columns, const Left<P>& left,
                      const typename P::Unit* right, i64 m_pad, float* dw) {
  i64 from, to;
  own_rows(rows, &from, &to);
  if (from < to)
    multiply<P, true>(to - from, columns, (m + P::DEPTH - 1) / P::DEPTH,
                      {left.at + from * left.row, left.row, left.step}, right, m_pad,
                      dw + from * columns, columns);
}

inline void scale_own_rows(i64 rows, i64 columns, float times, float* dw) {
  i64 from, to;
  own_rows(rows, &from, &to);
  for (i64 i = from * columns; i < to * columns; i++) dw[i] *= times;
}

}  // namespace
