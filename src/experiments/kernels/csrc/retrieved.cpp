// The retrieved rows of a product-key layer: gates of the scores, the products of PEER's rows, and
// y = x + times * the sum of weighted rows; forward, and backward to the weights of the rows' sums over
// tokens (segments.cpp), and to the scores.
#include "activations.h"
#include "strips.h"
#include "trunk.h"

namespace {

constexpr i64 SOME = 32;   // tokens at once
constexpr i64 AHEAD = 12;  // rows asked for before they are needed

enum Score { SOFTMAX, SIGMOID, RELU_SCORE };  // the order of product_key_layer.py's

// Of the four vectors the sums over lanes.
inline void sum4(const vec* v, float* out) {
#if defined(__AVX512F__)
  const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], e = (__m512)v[3];
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 ce = _mm512_add_ps(_mm512_unpacklo_ps(c, e), _mm512_unpackhi_ps(c, e));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, ce, 0x44), _mm512_shuffle_ps(ab, ce, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
  const __m256 ab = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]);
  const __m256 all = _mm256_hadd_ps(ab, _mm256_hadd_ps((__m256)v[2], (__m256)v[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  for (int r = 0; r < 4; r++) out[r] = sum(v[r]);
#endif
}

// out[j] = x . table[idx[j]]; the first `ahead` of the n rows have one AHEAD of them.
template <class T>
inline void dots(const float* x, const T* table, const i64* idx, i64 n, i64 ahead, i64 d, float* out) {
  const i64 bytes = d * sizeof(T);
  i64 j = 0;
  for (; j + 4 <= n; j += 4) {
    const T* row[4];
    vec acc[4] = {};
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
      if (j + r < ahead) prefetch(table + idx[j + r + AHEAD] * d, bytes);
      row[r] = table + idx[j + r] * d;
    }
    for (i64 c = 0; c < d; c += W) {
      const vec own = load(x + c);
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) acc[r] += own * load(row[r] + c);
    }
    sum4(acc, out + j);
  }
  for (; j < n; j++) out[j] = dot_row(x, table + idx[j] * d, d);
}

// out = plus (null: 0) + the sum of w[j] table[idx[j]].
template <class T>
inline void weighted(const T* table, const i64* idx, const float* w, i64 n, i64 ahead, i64 d,
                     const float* plus, float* out) {
  in_strips(d, [&](auto strip) {
    typedef decltype(strip) S;
    if constexpr (S::EACH == W) {  // d is a multiple of 16
      vec acc[S::COUNT];
      for (int v = 0; v < S::COUNT; v++)
        acc[v] = plus ? load(plus + strip.from + v * W) : vec{};
      for (i64 j = 0; j < n; j++) {
        if (strip.from == 0 && j < ahead) prefetch(table + idx[j + AHEAD] * d, d * sizeof(T));
        const T* row = table + idx[j] * d + strip.from;
        const vec times = splat(w[j]);
#pragma GCC unroll 16
        for (int v = 0; v < S::COUNT; v++) acc[v] += times * load(row + v * W);
      }
      for (int v = 0; v < S::COUNT; v++) store(out + strip.from + v * W, acc[v]);
    }
  });
}

// A head's gates, in place of its k scores, the best of which is the first.
inline void gates_of(i64 score, i64 k, float* s) {
  if (score != SOFTMAX) {
    for (i64 i = 0; i < k; i += W) {
      const vec own = load_some(s + i, k - i);
      const vec relu = own < 0.0f ? vec{} : own;  // shows NaN
      store_some(s + i, score == SIGMOID ? 1.0f / (1.0f + exp_of(-own)) : relu, k - i);
    }
    return;
  }
  const float most = s[0];
  float total = 0;
  for (i64 i = 0; i < k; i += W) {
    const vec e = exp_of(load_some(s + i, k - i) - most);
    store_some(s + i, e, k - i);
    if (k - i >= W) total += sum(e);
    for (i64 j = i; k - i < W && j < k; j++) total += s[j];
  }
  for (i64 i = 0; i < k; i++) s[i] /= total;
}

// A head's gradients of scores, in place of those of its gates.
inline void gates_backward(i64 score, i64 k, const float* gates, float* grad) {
  const float along = score == SOFTMAX ? dot_row(gates, grad, k) : 0;
  for (i64 i = 0; i < k; i++) {
    const float g = gates[i];
    grad[i] = score == SOFTMAX   ? g * (grad[i] - along)
              : score == SIGMOID ? grad[i] * g * (1 - g)
              : g > 0            ? grad[i]
                                 : 0;
  }
}

template <class T>
struct Layer {
  const T *down, *gate, *up;  // down: null for PKM, gate: without glu
  i64 n_tokens, d, n_heads, top_k, n_second, score, activation;
  float times;
  i64 columns() const { return n_heads * top_k; }
  // of a token's rows, the t-th of m, those with one AHEAD of them
  i64 ahead(i64 t, i64 m) const { return least(columns(), (m - t) * columns() - AHEAD); }
};

struct Pairs {
  i64* idx;                        // (T, heads * top_k), as the others
  float *gates, *hidden, *opened;  // opened: products with the rows of `gate`
};

template <class T>
void retrieved_forward(const Layer<T>& s, const float* x, const float* normed, const i64* first,
                       const i64* second, const Pairs& to, float* y, Arena arena, i64* needed,
                       i64 n_threads) {
  const i64 d = s.d, columns = s.columns(), n_tiles = (s.n_tokens + SOME - 1) / SOME;
  Arena count{nullptr};
  count.take<float>(SOME * columns);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    float* weights = arena.of_thread(count.used).template take<float>(SOME * columns);
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < n_tiles; tile++) {
      const i64 t0 = tile * SOME, m = least(SOME, s.n_tokens - t0), n = m * columns;
      const i64* idx = to.idx + t0 * columns;
      float *gates = to.gates + t0 * columns, *hidden = s.down ? to.hidden + t0 * columns : nullptr;
      float* opened = s.gate ? to.opened + t0 * columns : nullptr;
      for (i64 p = t0 * columns; p < t0 * columns + n; p++)
        to.idx[p] = first[p] * s.n_second + second[p];
      for (i64 i = 0; i < m * s.n_heads; i++) gates_of(s.score, s.top_k, gates + i * s.top_k);
      for (i64 t = 0; s.down && t < m; t++)
        dots(normed + (t0 + t) * d, s.down, idx + t * columns, columns, s.ahead(t, m), d,
             hidden + t * columns);
      for (i64 t = 0; s.gate && t < m; t++)
        dots(normed + (t0 + t) * d, s.gate, idx + t * columns, columns, s.ahead(t, m), d,
             opened + t * columns);
      with_activation(s.activation, [&](auto function) {
        for (i64 i = 0; i < n; i += W) {
          vec w = s.times * load_some(gates + i, n - i);
          if (s.down) {
            const vec h = load_some(hidden + i, n - i);
            w *= s.gate ? function.value(load_some(opened + i, n - i)) * h : function.value(h);
          }
          store_some(weights + i, w, n - i);
        }
      });
      for (i64 t = 0; t < m; t++)
        weighted(s.up, idx + t * columns, weights + t * columns, columns, s.ahead(t, m), d,
                 x + (t0 + t) * d, y + (t0 + t) * d);
    }
  }
}

// Weights of the rows' sums over tokens; scores: the scores' gradients.
struct PairGradients {
  float *down, *gate, *up, *scores;
};

template <class T>
void retrieved_backward(const Layer<T>& s, const Pairs& kept, const float* dy, float* dnormed,
                        const PairGradients& to, i64* needed, i64 n_threads) {
  if (needed) {
    *needed = 64;
    return;
  }
  const i64 d = s.d, columns = s.columns(), n_tiles = (s.n_tokens + SOME - 1) / SOME;
#pragma omp parallel for num_threads(n_threads) schedule(static)
  for (i64 tile = 0; tile < n_tiles; tile++) {
    const i64 t0 = tile * SOME, m = least(SOME, s.n_tokens - t0), n = m * columns, at = t0 * columns;
    const i64* idx = kept.idx + at;
    float* grad = to.scores + at;  // of weights, of gates, of scores
    for (i64 t = 0; t < m; t++)
      dots(dy + (t0 + t) * d, s.up, idx + t * columns, columns, s.ahead(t, m), d, grad + t * columns);
    with_activation(s.activation, [&](auto function) {
      for (i64 i = 0; i < n; i += W) {
        const i64 some = n - i, p = at + i;
        const vec back = s.times * load_some(grad + i, some), g = load_some(kept.gates + p, some);
        vec value = splat(1.0f), slope;
        if (s.gate) {
          const vec h = load_some(kept.hidden + p, some);
          slope = function.slope(load_some(kept.opened + p, some), value);
          store_some(to.gate + p, back * g * h * slope, some);
          store_some(to.down + p, back * g * value, some);
          value *= h;
        } else if (s.down) {
          slope = function.slope(load_some(kept.hidden + p, some), value);
          store_some(to.down + p, back * g * slope, some);
        }
        store_some(to.up + p, s.times * g * value, some);
        store_some(grad + i, back * value, some);
      }
    });
    for (i64 i = 0; i < m * s.n_heads; i++)
      gates_backward(s.score, s.top_k, kept.gates + at + i * s.top_k, grad + i * s.top_k);
    for (i64 t = 0; s.down && t < m; t++) {
      float* out = dnormed + (t0 + t) * d;
      const i64 of = t * columns;
      weighted(s.down, idx + of, to.down + at + of, columns, s.ahead(t, m), d, nullptr, out);
      if (s.gate) weighted(s.gate, idx + of, to.gate + at + of, columns, s.ahead(t, m), d, out, out);
    }
  }
}

template <class T>
Layer<T> layer_of(const void* down, const void* gate, const void* up, i64 n_tokens, i64 d,
                  i64 n_heads, i64 top_k, i64 n_second, i64 score, i64 activation, float times) {
  return {(const T*)down, (const T*)gate, (const T*)up, n_tokens,   d,    n_heads,
          top_k,          n_second,       score,        activation, times};
}

}  // namespace

// Tables (N, d), d a multiple of 16. gates: the scores before, the best of a head's first.
EXPORT(retrieved_forward)(const float* x, const float* normed, const void* down, const void* gate,
                          const void* up, const i64* first, const i64* second, i64* idx,
                          float* gates, float* hidden, float* opened, float* y, i64 n_tokens, i64 d,
                          i64 n_heads, i64 top_k, i64 n_second, i64 score, i64 activation,
                          i64 tables_are_bf16, const float* numbers, i64, char* room, i64* needed,
                          i64 n_threads) {
  const Pairs to{idx, gates, hidden, opened};
#define RUN(T)                                                                                      \
  retrieved_forward<T>(layer_of<T>(down, gate, up, n_tokens, d, n_heads, top_k, n_second, score,    \
                                   activation, numbers[0]),                                         \
                       x, normed, first, second, to, y, {room}, needed, n_threads)
  if (tables_are_bf16)
    RUN(bf16);
  else
    RUN(float);
#undef RUN
}

// dnormed (T, d): null for PKM.
EXPORT(retrieved_backward)(const void* down, const void* gate, const void* up, i64* idx, float* gates,
                           float* hidden, float* opened, const float* dy, float* dnormed,
                           float* of_down, float* of_gate, float* of_up, float* dscores, i64 n_tokens,
                           i64 d, i64 n_heads, i64 top_k, i64 n_second, i64 score, i64 activation,
                           i64 tables_are_bf16, const float* numbers, i64, char*, i64* needed,
                           i64 n_threads) {
  const Pairs kept{idx, gates, hidden, opened};
  const PairGradients to{of_down, of_gate, of_up, dscores};
#define RUN(T)                                                                                      \
  retrieved_backward<T>(layer_of<T>(down, gate, up, n_tokens, d, n_heads, top_k, n_second, score,   \
                                    activation, numbers[0]),                                        \
                        kept, dy, dnormed, to, needed, n_threads)
  if (tables_are_bf16)
    RUN(bf16);
  else
    RUN(float);
#undef RUN
}
