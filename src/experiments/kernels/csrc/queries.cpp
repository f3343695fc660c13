// The queries of a product-key layer: W_query norm(x), and their own norm; forward and backward, with
// the gradient of the sub-keys that a search (search.cpp) found.
//
// The statistics of batch norm are merged from those of tiles, in their order (Chan, Golub and LeVeque
// 1979), so that they are the same to the bit for any number of threads.
#include "strips.h"
#include "trunk.h"

namespace {

// The order of product_key_layer.py's. FIXED: batch norm by the running statistics.
enum QueryNorm { NONE, LAYER, BATCH, FIXED };

struct Queries {
  const float *x, *norm, *w, *scale, *shift;  // scale, shift: the queries' norm's, null where NONE
  i64 n_tokens, d, n_heads, d_key, kind;
  float eps, query_eps;
  i64 n() const { return n_heads * d_key; }
  i64 n_tiles() const { return (n_tokens + TOKENS - 1) / TOKENS; }
};

inline float total(const float* x, i64 n) {
  vec sums = {};
  i64 i = 0;
  for (; i + W <= n; i += W) sums += load(x + i);
  float rest = 0;
  for (; i < n; i++) rest += x[i];
  return sum(sums) + rest;
}

// Layer norm: x becomes what is scaled, out is that; inverse: 1 / standard deviation of each row.
inline void layer_norm(i64 rows, i64 d, float* x, const float* scale, const float* shift, float eps,
                       float* out, float* inverse) {
  for (i64 i = 0; i < rows; i++, x += d, out += d) {
    const float mean = total(x, d) / d;
    for (i64 c = 0; c < d; c++) x[c] -= mean;
    const float r = inverse[i] = 1 / sqrtf(dot_row(x, x, d) / d + eps);
    for (i64 c = 0; c < d; c++) {
      x[c] *= r;
      out[c] = x[c] * scale[c] + shift[c];
    }
  }
}

// The same by the statistics of columns.
inline void standardise(i64 rows, i64 n, float* x, const float* mean, const float* inverse,
                        const float* scale, const float* shift, float* out) {
  for (i64 i = 0; i < rows; i++, x += n, out += n)
    for (i64 c = 0; c < n; c += W) {
      const vec z = (load(x + c) - load(mean + c)) * load(inverse + c);
      store(x + c, z);
      store(out + c, z * load(scale + c) + load(shift + c));
    }
}

// Means of a tile's columns, and sums of squares around them.
inline void moments(i64 rows, i64 n, const float* x, float* means, float* squares) {
  in_strips(n, [&](auto strip) {
    typedef decltype(strip) S;
    typedef typename S::Vector V;
    V acc[S::COUNT] = {}, mean[S::COUNT];
    for (i64 i = 0; i < rows; i++)
      for (int v = 0; v < S::COUNT; v++) acc[v] += load_as<V>(x + i * n + strip.from + v * S::EACH);
    for (int v = 0; v < S::COUNT; v++) {
      mean[v] = acc[v] / (float)rows;
      store_as(means + strip.from + v * S::EACH, mean[v]);
      acc[v] = V{};
    }
    for (i64 i = 0; i < rows; i++)
      for (int v = 0; v < S::COUNT; v++) {
        const V off = load_as<V>(x + i * n + strip.from + v * S::EACH) - mean[v];
        acc[v] += off * off;
      }
    for (int v = 0; v < S::COUNT; v++) store_as(squares + strip.from + v * S::EACH, acc[v]);
  });
}

struct Running {
  float *mean, *variance, momentum;  // null: not kept
};

// Of column c from those of tiles, (tiles, 2, n): its mean and 1 / its standard deviation.
inline void merge(const Queries& s, const float* tiles, i64 c, float* mean_of, float* inverse_of,
                  const Running& running) {
  double mean = 0, square = 0;
  for (i64 tile = 0, seen = 0; tile < s.n_tiles(); tile++, seen += TOKENS) {
    const double m = least(TOKENS, s.n_tokens - seen);
    const double off = tiles[tile * 2 * s.n() + c] - mean, part = m / (m + seen);
    mean += off * part;
    square += tiles[(tile * 2 + 1) * s.n() + c] + off * off * part * seen;
  }
  *mean_of = (float)mean;
  *inverse_of = (float)(1 / sqrt(square / s.n_tokens + s.query_eps));
  if (!running.mean) return;
  const float unbiased = (float)(square / (s.n_tokens - 1)), kept = 1 - running.momentum;
  running.mean[c] = running.momentum * (float)mean + kept * running.mean[c];
  running.variance[c] = running.momentum * unbiased + kept * running.variance[c];
}

// hat: queries before they are scaled and shifted, null where NONE; inverse_of_queries: (n), of LAYER
// (T, heads).
struct Kept {
  float *normed, *inverse, *hat, *queries, *inverse_of_queries;
};

template <class P>
void queries_forward(const Queries& s, const Kept& to, const Running& running, Arena arena,
                     i64* needed, i64 n_threads) {
  const i64 d = s.d, n = s.n();
  typedef typename P::Unit Unit;
  Unit* packed = arena.take<Unit>(packed_units(d, n));
  float* means = arena.take<float>(n);
  float* tiles = arena.take<float>(s.kind == BATCH ? s.n_tiles() * 2 * n : 0);
  Arena count{nullptr};
  count.take<Unit>(left_units(TOKENS, d));
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
  float* inverse = to.inverse_of_queries;
#pragma omp parallel num_threads(n_threads)
  {
    Unit* left = arena.of_thread(count.used).template take<Unit>(left_units(TOKENS, d));
#pragma omp for schedule(static)
    for (i64 j = 0; j < n; j += PANEL) {
      const i64 end = least(n, j + PANEL);
      pack_transposed<P>(s.w, d, n, d, d, j, end, 1, packed);
      for (i64 c = j; s.kind == FIXED && c < end; c++) {
        means[c] = running.mean[c];
        inverse[c] = 1 / sqrtf(running.variance[c] + s.query_eps);
      }
    }
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < s.n_tiles(); tile++) {
      const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
      float *normed = to.normed + t * d, *queries = to.queries + t * n;
      float* raw = s.kind == NONE ? queries : to.hat + t * n;
      norm_rows(m, d, s.x + t * d, s.norm, s.eps, normed, to.inverse + t);
      multiply<P, false>(m, n, d / P::DEPTH, left_rows<P>(normed, m, d, d, left), packed, d, raw, n);
      if (s.kind == LAYER)
        layer_norm(m * s.n_heads, s.d_key, raw, s.scale, s.shift, s.query_eps, queries,
                   inverse + t * s.n_heads);
      if (s.kind == FIXED) standardise(m, n, raw, means, inverse, s.scale, s.shift, queries);
      if (s.kind == BATCH) moments(m, n, raw, tiles + tile * 2 * n, tiles + (tile * 2 + 1) * n);
    }
    if (s.kind == BATCH) {
#pragma omp for schedule(static)
      for (i64 c = 0; c < n; c++) merge(s, tiles, c, means + c, inverse + c, running);
#pragma omp for schedule(static)
      for (i64 tile = 0; tile < s.n_tiles(); tile++) {
        const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
        standardise(m, n, to.hat + t * n, means, inverse, s.scale, s.shift, to.queries + t * n);
      }
    }
  }
}

// The sub-keys (groups, n_first + n_second, width) that were found, and their scores' gradients.
struct Found {
  const float* keys;
  const i64 *first, *second;
  const float* dscores;
  i64 top_k, n_groups, n_first, n_second, width, n_heads;

  i64 n_both() const { return n_first + n_second; }
  // where the set of a head's half begins, as a row of all sub-keys
  i64 base(i64 head, int half) const {
    return (n_groups > 1 ? head : 0) * n_both() + (half ? n_first : 0);
  }
  const i64* rows(i64 query, int half) const { return (half ? second : first) + query * top_k; }
};

// Gradients of the queries [from, to) of all heads.
inline void gradient_of_queries(const Found& f, i64 from, i64 to, float* dqueries) {
  for (i64 query = from; query < to; query++)
    for (int half = 0; half < 2; half++) {
      const float *scores = f.dscores + query * f.top_k;
      const float* keys = f.keys + f.base(query % f.n_heads, half) * f.width;
      const i64* rows = f.rows(query, half);
      float* out = dqueries + (query * 2 + half) * f.width;
      in_strips(f.width, [&](auto strip) {
        typedef decltype(strip) S;
        typedef typename S::Vector V;
        V acc[S::COUNT];
#pragma GCC unroll 16
        for (int v = 0; v < S::COUNT; v++) acc[v] = V{};
        for (i64 i = 0; i < f.top_k; i++)
#pragma GCC unroll 16
          for (int v = 0; v < S::COUNT; v++)
            acc[v] += scores[i] * load_as<V>(keys + rows[i] * f.width + strip.from + v * S::EACH);
#pragma GCC unroll 16
        for (int v = 0; v < S::COUNT; v++) store_as(out + strip.from + v * S::EACH, acc[v]);
      });
    }
}

// dkeys += those of the sub-keys [from, to), of all queries in their order.
inline void gradient_of_keys(const Found& f, i64 n_tokens, const float* queries, i64 from, i64 to,
                             float* dkeys) {
  in_strips(f.width, [&](auto strip) {
    typedef decltype(strip) S;
    typedef typename S::Vector V;
    for (i64 query = 0; query < n_tokens * f.n_heads; query++)
      for (int half = 0; half < 2; half++) {
        const i64 base = f.base(query % f.n_heads, half);
        if (base >= to || base + (half ? f.n_second : f.n_first) <= from) continue;
        const float *scores = f.dscores + query * f.top_k;
        const i64* rows = f.rows(query, half);
        V own[S::COUNT];
#pragma GCC unroll 16
        for (int v = 0; v < S::COUNT; v++)
          own[v] = load_as<V>(queries + (query * 2 + half) * f.width + strip.from + v * S::EACH);
        for (i64 i = 0; i < f.top_k; i++) {
          const i64 row = base + rows[i];
          if (row < from || row >= to) continue;
          float* out = dkeys + row * f.width + strip.from;
#pragma GCC unroll 16
          for (int v = 0; v < S::COUNT; v++)
            store_as(out + v * S::EACH, load_as<V>(out + v * S::EACH) + scores[i] * own[v]);
        }
      }
  });
}

struct QueryGradients {
  float *x, *norm, *w, *scale, *shift, *keys;  // null where one is not asked for; x is
};

// Of layer norm: dq becomes the gradient of what was normalised; dscale, dshift are added to.
inline void layer_norm_backward(i64 rows, i64 d, const float* hat, const float* scale,
                                const float* inverse, float* dq, float* dscale, float* dshift,
                                float* room) {
  for (i64 i = 0; i < rows; i++, hat += d, dq += d) {
    for (i64 c = 0; c < d; c++) {
      dscale[c] += dq[c] * hat[c];
      dshift[c] += dq[c];
      room[c] = dq[c] * scale[c];
    }
    const float mean = total(room, d) / d, along = dot_row(room, hat, d) / d;
    for (i64 c = 0; c < d; c++) dq[c] = inverse[i] * (room[c] - mean - hat[c] * along);
  }
}

template <class P>
struct QueryTile {
  typename P::Unit *left, *right;
  float* norm;

  QueryTile(Arena& arena, const Queries& s) {
    left = arena.take<typename P::Unit>(left_units(TOKENS, s.n()));
    right = arena.take<typename P::Unit>(packed_units(TOKENS, s.d));
    norm = arena.take<float>(s.d);
  }
};

// dnormed: the gradient of normed that comes of the retrieved rows, which is added to; null: none.
template <class P>
void queries_backward(const Queries& s, const Kept& kept, const Found& found, const float* dy,
                      float* dnormed, const QueryGradients& to, Arena arena, i64* needed,
                      i64 n_threads) {
  typedef typename P::Unit Unit;
  const i64 d = s.d, n = s.n(), n_tiles = s.n_tiles();
  const i64 n_sums = s.kind == NONE ? 0 : s.kind == LAYER ? s.d_key : n;
  Unit* packed = arena.take<Unit>(packed_units(n, d));
  float* dq = arena.take<float>(s.n_tokens * n);
  float* tiles = arena.take<float>(n_tiles * 2 * n_sums);  // dscale, dshift
  float* sums = arena.take<float>(2 * n_sums);
  Left<P>* lefts = arena.take<Left<P>>(n_threads);
  Arena per_tile{nullptr}, count{nullptr};
  QueryTile<P> measured(per_tile, s);
  char* slots = arena.take<char>(n_threads * per_tile.used);
  const auto own_room = [&](Arena& own, Unit** left, float** back, float** row) {
    *left = own.take<Unit>(left_units(TOKENS, n));
    *back = own.take<float>(TOKENS * d);
    *row = own.take<float>(s.d_key);
  };
  Unit* left;
  float *back, *row;
  own_room(count, &left, &back, &row);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
  const auto tile_of = [&](i64 slot) {
    Arena part{slots + slot * per_tile.used};
    return QueryTile<P>(part, s);
  };
#pragma omp parallel num_threads(n_threads) private(left, back, row)
  {
    Arena own = arena.of_thread(count.used);
    own_room(own, &left, &back, &row);
    const i64 team = team_size(), slot = thread_id();
    const QueryTile<P> mine = tile_of(slot);
    if (to.keys) {
      const i64 all = found.n_groups * found.n_both();
      gradient_of_keys(found, s.n_tokens, kept.queries, all * slot / team, all * (slot + 1) / team,
                       to.keys);
    }
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < d; j += PANEL) pack<P>(s.w, n, d, d, n, j, least(d, j + PANEL), 1, packed);
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < n_tiles; tile++) {
      const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
      gradient_of_queries(found, t * s.n_heads, (t + m) * s.n_heads, dq);
      if (s.kind == NONE) continue;
      float *own_dq = dq + t * n, *dscale = tiles + tile * 2 * n_sums, *dshift = dscale + n_sums;
      const float* hat = kept.hat + t * n;
      fill(dscale, 2 * n_sums, 0);
      if (s.kind == LAYER) {
        layer_norm_backward(m * s.n_heads, s.d_key, hat, s.scale,
                            kept.inverse_of_queries + t * s.n_heads, own_dq, dscale, dshift, row);
        continue;
      }
      for (i64 i = 0; i < m; i++)
        for (i64 c = 0; c < n; c += W) {
          const vec g = load(own_dq + i * n + c);
          store(dscale + c, load(dscale + c) + g * load(hat + i * n + c));
          store(dshift + c, load(dshift + c) + g);
        }
    }
#pragma omp for schedule(static)
    for (i64 c = 0; c < 2 * n_sums; c++) {
      double sum = 0;
      for (i64 tile = 0; tile < n_tiles; tile++) sum += tiles[tile * 2 * n_sums + c];
      sums[c] = (float)sum;
      float* out = c < n_sums ? to.scale : to.shift;
      if (out) out[c % n_sums] = sums[c];
    }
    for (i64 first = 0; first < n_tiles; first += team) {
      if (first + slot < n_tiles) {
        const i64 t = (first + slot) * TOKENS, m = least(TOKENS, s.n_tokens - t);
        float* own_dq = dq + t * n;
        const float shared = s.kind == BATCH ? 1.0f / s.n_tokens : 0;
        if (s.kind == BATCH || s.kind == FIXED)
          for (i64 i = 0; i < m; i++)
            for (i64 c = 0; c < n; c += W) {
              const vec hat = load(kept.hat + (t + i) * n + c);
              const vec mean = (load(sums + n + c) + hat * load(sums + c)) * shared;
              store(own_dq + i * n + c, (load(own_dq + i * n + c) - mean) *
                                            (load(kept.inverse_of_queries + c) * load(s.scale + c)));
            }
        const Left<P> rows = left_rows<P>(own_dq, m, n, n, left);
        if (dnormed)
          multiply<P, true>(m, d, n / P::DEPTH, rows, packed, n, dnormed + t * d, d);
        else
          multiply<P, false>(m, d, n / P::DEPTH, rows, packed, n, back, d);
        memcpy(to.x + t * d, dy + t * d, m * d * sizeof(float));
        fill(mine.norm, d, 0);
        norm_rows_backward(m, d, s.x + t * d, s.norm, kept.inverse + t,
                           dnormed ? dnormed + t * d : back, to.x + t * d, mine.norm);
        if (to.w) {
          pack<P>(kept.normed + t * d, m, d, d, TOKENS, 0, d, 1, mine.right);
          lefts[slot] = left_columns<P>(own_dq, m, n, n, mine.left);
        }
      }
#pragma omp barrier
      for (i64 other = 0; other < team && first + other < n_tiles; other++) {
        const i64 m = least(TOKENS, s.n_tokens - (first + other) * TOKENS);
        const QueryTile<P> tile = tile_of(other);
        if (to.w) add_outer<P>(m, n, d, lefts[other], tile.right, TOKENS, to.w);
        if (to.norm && slot == 0)
          for (i64 c = 0; c < d; c++) to.norm[c] += tile.norm[c];
      }
#pragma omp barrier
    }
  }
}

}  // namespace

// x, normed (T, d); w (heads * d_key, d), that many a multiple of 16; hat, queries (T, heads * d_key).
// numbers: eps, query_eps, momentum. Running statistics are updated where kind is BATCH, if any.
EXPORT(queries_forward)(const float* x, const float* norm, const float* w, const float* scale,
                        const float* shift, float* running_mean, float* running_variance,
                        float* normed, float* inverse, float* hat, float* queries,
                        float* inverse_of_queries, i64 n_tokens, i64 d, i64 n_heads, i64 d_key,
                        i64 kind, const float* numbers, i64 is_bf16, char* room, i64* needed,
                        i64 n_threads) {
  const Queries s{x, norm, w, scale, shift, n_tokens, d, n_heads, d_key, kind, numbers[0], numbers[1]};
  const Kept to{normed, inverse, hat, queries, inverse_of_queries};
  const Running running{running_mean, running_variance, numbers[2]};
  if (is_bf16)
    queries_forward<BFloat16>(s, to, running, {room}, needed, n_threads);
  else
    queries_forward<Float32>(s, to, running, {room}, needed, n_threads);
}

// first, second, dscores (T, heads, top_k). dnormed is overwritten. Of gradients dx, dscale and dshift
// are written, the others added to what is there; null: not asked for.
EXPORT(queries_backward)(const float* x, const float* norm, const float* w, const float* scale,
                         float* normed, float* inverse, float* hat, float* queries,
                         float* inverse_of_queries, const float* keys, const i64* first,
                         const i64* second, const float* dscores, const float* dy, float* dnormed,
                         float* dx, float* dnorm, float* dw, float* dscale, float* dshift,
                         float* dkeys, i64 n_tokens, i64 d, i64 n_heads, i64 d_key, i64 kind,
                         i64 top_k, i64 n_groups, i64 n_first, i64 n_second, const float* numbers,
                         i64 is_bf16, char* room, i64* needed, i64 n_threads) {
  const Queries s{x, norm, w, scale, nullptr, n_tokens, d, n_heads, d_key, kind, numbers[0], numbers[1]};
  const Kept kept{normed, inverse, hat, queries, inverse_of_queries};
  const Found found{keys,     first,   second,   dscores,   top_k,
                    n_groups, n_first, n_second, d_key / 2, n_heads};
  const QueryGradients to{dx, dnorm, dw, dscale, dshift, dkeys};
  if (is_bf16)
    queries_backward<BFloat16>(s, kept, found, dy, dnormed, to, {room}, needed, n_threads);
  else
    queries_backward<Float32>(s, kept, found, dy, dnormed, to, {room}, needed, n_threads);
}
