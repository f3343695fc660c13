// Dot products with rows of a table, and weighted sums of them.
#include "vectors.h"

namespace {

constexpr i64 AHEAD = 8;  // rows asked for before they are needed; 4 to 16 measure alike

template <class T>
void dot(const float* x, const T* table, const i64* idx, float* out, i64 n_tokens, i64 n_columns,
         i64 d, int n_threads) {
  const i64 n_pairs = n_tokens * n_columns, bytes = d * sizeof(T);
#pragma omp parallel for num_threads(n_threads) schedule(static)
  for (i64 t = 0; t < n_tokens; t++) {
    for (i64 j = 0; j < n_columns; j++) {
      const i64 p = t * n_columns + j;
      if (p + AHEAD < n_pairs) prefetch(table + idx[p + AHEAD] * d, bytes);
      out[p] = dot_row(x + t * d, table + idx[p] * d, d);
    }
  }
}

// Columns [from, from + N * W) of one token's sum, held in registers.
template <int N, class T>
inline void sum_columns(const T* table, const i64* idx, const float* w, float* out, i64 n_columns,
                        i64 d, i64 from, i64 ahead) {
  vec acc[N] = {};
  for (i64 j = 0; j < n_columns; j++) {
    if (j < ahead) prefetch(table + idx[j + AHEAD] * d, d * sizeof(T));
    const T* row = table + idx[j] * d + from;
    const vec s = splat(w[j]);
#pragma GCC unroll 16
    for (int v = 0; v < N; v++) acc[v] += s * load(row + v * W);
  }
  for (int v = 0; v < N; v++) store(out + from + v * W, acc[v]);
}

template <class T>
void weighted_sum(const T* table, const i64* idx, const float* w, float* out, i64 n_tokens,
                  i64 n_columns, i64 d, int n_threads) {
  const i64 n_pairs = n_tokens * n_columns;
#pragma omp parallel for num_threads(n_threads) schedule(static)
  for (i64 t = 0; t < n_tokens; t++) {
    const i64 p = t * n_columns;
    i64 ahead = n_pairs - AHEAD - p;  // of this token's rows, those with a successor to ask for
    ahead = ahead > n_columns ? n_columns : ahead;
    i64 from = 0;
    for (; from + NV * W <= d; from += NV * W) {
      sum_columns<NV>(table, idx + p, w + p, out + t * d, n_columns, d, from, ahead);
      ahead = 0;  // whole rows were asked for
    }
    for (; from + W <= d; from += W) {
      sum_columns<1>(table, idx + p, w + p, out + t * d, n_columns, d, from, ahead);
      ahead = 0;
    }
    for (; from < d; from++) {
      float acc = 0;
      for (i64 j = 0; j < n_columns; j++) acc += w[p + j] * load1(table + idx[p + j] * d + from);
      out[t * d + from] = acc;
    }
  }
}

}  // namespace

EXPORT(dot)(const float* x, const void* table, i64 is_bf16, const i64* idx, float* out,
            i64 n_tokens, i64 n_columns, i64 d, i64 n_threads) {
  if (is_bf16)
    dot(x, (const bf16*)table, idx, out, n_tokens, n_columns, d, n_threads);
  else
    dot(x, (const float*)table, idx, out, n_tokens, n_columns, d, n_threads);
}

EXPORT(weighted_sum)(const void* table, i64 is_bf16, const i64* idx, const float* w, float* out,
                     i64 n_tokens, i64 n_columns, i64 d, i64 n_threads) {
  if (is_bf16)
    weighted_sum((const bf16*)table, idx, w, out, n_tokens, n_columns, d, n_threads);
  else
    weighted_sum((const float*)table, idx, w, out, n_tokens, n_columns, d, n_threads);
}
