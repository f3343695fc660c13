// One product of matrices, as the trunk's functions make theirs: its rate is this processor's.
#include "products.h"

namespace {

constexpr i64 DEEP = 128;  // along K at once: of a panel, what stays in the first cache

template <class P>
void product(const float* a, const float* b, float* c, i64 m, i64 k, i64 n, Arena arena, i64* needed,
             i64 n_threads) {
  typedef typename P::Unit Unit;
  Unit* packed = arena.take<Unit>(packed_units(k, n));
  Unit* copy = arena.take<Unit>(left_units(m, k));
  if (!arena.base) {
    *needed = arena.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
#pragma omp for schedule(static)
    for (i64 j = 0; j < n; j += PANEL) pack<P>(b, k, n, n, k, j, least(n, j + PANEL), 1, packed);
    const i64 each = up_to((m + team_size() - 1) / team_size(), 12);  // whole blocks
    const i64 from = least(m, each * thread_id()), rows = least(m, from + each) - from;
    const Left<P> left = left_rows<P>(a + from * k, rows, k, k, copy + from * (k / P::DEPTH + ROW_GAP));
    for (i64 i = from * n; i < (from + rows) * n; i += W) store(c + i, vec{});
    for (i64 i = 0; i < k; i += DEEP)
      for (i64 j = 0; j < n; j += PANEL) {
        const i64 width = least(PANEL, n - j), depth = least(DEEP, k - i) / P::DEPTH;
        const Unit* panel = packed + j * (k / P::DEPTH) + i / P::DEPTH * width;
        one_panel<P, true>(rows, width, depth, {left.at + i / P::DEPTH, left.row, left.step}, panel,
                           width, c + from * n + j, n);
      }
  }
}

}  // namespace

// c (m, n) = a (m, k) b (k, n); k and n are multiples of UNIT.
EXPORT(product)(const float* a, const float* b, float* c, i64 m, i64 k, i64 n, i64 is_bf16, char* room,
                i64* needed, i64 n_threads) {
  if (is_bf16)
    product<BFloat16>(a, b, c, m, k, n, {room}, needed, n_threads);
  else
    product<Float32>(a, b, c, m, k, n, {room}, needed, n_threads);
}
