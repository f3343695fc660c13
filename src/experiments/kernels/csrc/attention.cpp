// The attention half of a block: y = x + times * W_out attend(rotate(W_qkv norm(x))); causal, several
// heads of queries to one of keys and values where there are fewer of those (Ainslie 2023,
// arXiv:2305.13245), rotary positions (Su 2021, arXiv:2104.09864). Forward and backward.
//
// A block of queries has its scores with all keys that it sees at once: rows of the softmax are made in
// one pass, and the backward pass makes them again from the kept logarithms of their sums.
#include "activations.h"
#include "trunk.h"

namespace {

constexpr i64 QUERIES = 48;  // a block's: a multiple of the rows that a product takes at once

struct Attention {
  const float *x, *norm, *w_qkv, *w_out;
  const float *cos, *sin;  // (seq, d_head / 2)
  const int32_t* first;    // (batch, seq): the first position that each sees; null: 0
  i64 batch, seq, d, n_heads, n_kv_heads, d_head;
  float eps, scale, times;
  i64 n_tokens() const { return batch * seq; }
  i64 width() const { return (n_heads + 2 * n_kv_heads) * d_head; }
  i64 padded() const { return up_to(seq, PANEL > UNIT ? PANEL : UNIT); }
  i64 ld() const { return padded() + UNIT; }  // of a block's scores
};

typedef float eight __attribute__((vector_size(32)));  // half a head is a multiple of it

// The pairs (i, i + d_head / 2) of queries and keys, turned by their positions' angles; sign -1: back.
inline void rotate_rows(const Attention& s, i64 t, i64 m, float* rows, float sign) {
  const i64 half = s.d_head / 2;
  for (i64 i = 0; i < m; i++, rows += s.width()) {
    const float *c = s.cos + (t + i) % s.seq * half, *w = s.sin + (t + i) % s.seq * half;
    for (i64 head = 0; head < s.n_heads + s.n_kv_heads; head++) {
      float *left = rows + head * s.d_head, *right = left + half;
      for (i64 j = 0; j < half; j += 8) {
        eight a, b, cosine, turn;
        memcpy(&a, left + j, sizeof a);
        memcpy(&b, right + j, sizeof b);
        memcpy(&cosine, c + j, sizeof cosine);
        memcpy(&turn, w + j, sizeof turn);
        turn *= sign;
        const eight one = a * cosine - b * turn, two = a * turn + b * cosine;
        memcpy(left + j, &one, sizeof one);
        memcpy(right + j, &two, sizeof two);
      }
    }
  }
}

// The first position that the one at `at` sees, which is none outside [0, at].
inline i64 first_of(const Attention& s, i64 b, i64 at) {
  return s.first ? most(0, least(at, s.first[b * s.seq + at])) : 0;
}

// A block of queries [i, i + m) of one head, the columns of keys [from, to) that any of them sees.
struct Span {
  i64 i, m, from, to;
};

inline Span span_of(const Attention& s, i64 b, i64 i) {
  const i64 m = least(QUERIES, s.seq - i);
  i64 from = s.first ? s.seq : 0;
  for (i64 r = 0; s.first && r < m; r++) from = least(from, first_of(s, b, i + r));
  return {i, m, from / PANEL * PANEL, up_to(i + m, UNIT)};
}

// Which of the columns c .. c + W the query at position `at` sees.
inline int_vec seen(i64 c, i64 first, i64 at) {
  int_vec column;
  for (int i = 0; i < W; i++) column[i] = (int32_t)i;
  column += (int32_t)c;
  return (column >= (int32_t)first) & (column <= (int32_t)at);
}

inline float highest(vec v) {
  float lanes[W], top = -INFINITY;
  store(lanes, v);
  for (int i = 0; i < W; i++) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

// A head's operands: keys as columns, values as rows.
template <class P>
struct HeadRoom {
  float *scores, *back;
  typename P::Unit *keys, *values, *value_rows, *key_rows, *left, *tile;

  HeadRoom(Arena& arena, const Attention& s, bool backward)
      : back(nullptr), value_rows(nullptr), key_rows(nullptr), tile(nullptr) {
    typedef typename P::Unit Unit;
    const i64 whole = packed_units(s.padded(), s.d_head);
    scores = arena.take<float>(QUERIES * s.ld());
    keys = arena.take<Unit>(whole);
    values = arena.take<Unit>(whole);
    left = arena.take<Unit>(left_units(most(QUERIES, s.d_head), most(s.padded(), QUERIES)) +
                            left_units(QUERIES, s.d_head));
    if (!backward) return;
    back = arena.take<float>(QUERIES * s.ld());
    key_rows = arena.take<Unit>(whole);
    tile = arena.take<Unit>(packed_units(QUERIES, s.d_head));
  }
};

// A row of scores becomes e^(score * scale - top), 0 where a key is not seen. Returns the sum.
inline float exponentials(const Attention& s, const Span& span, float* row, i64 first, i64 at,
                          float top) {
  const i64 n = span.to - span.from, begin = most(0, first - span.from) / W * W;
  const i64 whole = most(begin, (at + 1 - span.from) / W * W);  // up to there all keys are seen
  vec all = {};
  for (i64 c = 0; c < begin; c += W) store(row + c, vec{});
  for (i64 c = begin; c < n; c += W) {
    vec e = vec{};
    if (c < whole || span.from + c <= at) {
      e = exp_of(load(row + c) * s.scale - top);
      if (c >= whole || span.from + c < first) e = seen(span.from + c, first, at) ? e : splat(0);
    }
    all += e;
    store(row + c, e);
  }
  return sum(all);
}

template <class P>
void attend(const Attention& s, i64 b, i64 head, const float* qkv, float* out, float* log_sums,
            const HeadRoom<P>& room) {
  const i64 ld = s.width(), seq = s.seq, k_pad = s.padded();
  const i64 kv = s.n_heads + head / (s.n_heads / s.n_kv_heads), wide = s.n_heads * s.d_head;
  float totals[QUERIES];
  const float* rows = qkv + b * seq * ld;
  pack_transposed<P>(rows + kv * s.d_head, s.d_head, seq, ld, s.d_head, 0, up_to(seq, UNIT), 1,
                     room.keys);
  pack<P>(rows + (kv + s.n_kv_heads) * s.d_head, seq, s.d_head, ld, k_pad, 0, s.d_head, 1, room.values);
  for (i64 i = 0; i < seq; i += QUERIES) {
    const Span span = span_of(s, b, i);
    const i64 n = span.to - span.from;
    const Left<P> queries =
        left_rows<P>(rows + i * ld + head * s.d_head, span.m, s.d_head, ld, room.left);
    multiply<P, false>(span.m, n, s.d_head / P::DEPTH, queries,
                       room.keys + span.from * (s.d_head / P::DEPTH), s.d_head, room.scores, s.ld(),
                       up_to(seq, UNIT) - span.from);
    for (i64 r = 0; r < span.m; r++) {
      float* row = room.scores + r * s.ld();
      const i64 at = i + r, first = first_of(s, b, at);
      vec tops = splat(-INFINITY);
      for (i64 c = 0; c < n; c += W) {
        const vec v = load(row + c);
        const bool whole = span.from + c >= first && span.from + c + W <= at + 1;
        tops = at_least(whole ? v : (seen(span.from + c, first, at) ? v : splat(-INFINITY)), tops);
      }
      const float top = highest(tops) * s.scale;
      totals[r] = exponentials(s, span, row, first, at, top);
      log_sums[i + r] = top + logf(totals[r]);
    }
    const Left<P> weights = left_rows<P>(room.scores, span.m, n, s.ld(), room.left);
    for (i64 j = 0; j < s.d_head; j += PANEL) {
      const i64 width = least(PANEL, s.d_head - j);
      one_panel<P, false>(span.m, width, n / P::DEPTH, weights,
                          room.values + j * (k_pad / P::DEPTH) + span.from / P::DEPTH * width, width,
                          out + i * wide + j, wide);
    }
    for (i64 r = 0; r < span.m; r++)
      for (i64 c = 0; c < s.d_head; c += W) {
        float* at = out + (i + r) * wide + c;
        store(at, load(at) * (1 / totals[r]));
      }
  }
}

// d_qkv's part of one head of keys and values, and of the heads of queries that share it.
template <class P>
void attend_backward(const Attention& s, i64 b, i64 kv_head, const float* qkv, const float* out,
                     const float* d_out, const float* log_sums, float* d_qkv,
                     const HeadRoom<P>& room) {
  const i64 ld = s.width(), seq = s.seq, k_pad = s.padded(), d_head = s.d_head;
  const i64 each = s.n_heads / s.n_kv_heads, wide = s.n_heads * d_head;
  const float* rows = qkv + b * seq * ld;
  float* d_rows = d_qkv + b * seq * ld;
  const i64 key = (s.n_heads + kv_head) * d_head, value = key + s.n_kv_heads * d_head;
  pack_transposed<P>(rows + key, d_head, seq, ld, d_head, 0, up_to(seq, UNIT), 1, room.keys);
  pack_transposed<P>(rows + value, d_head, seq, ld, d_head, 0, up_to(seq, UNIT), 1, room.values);
  pack<P>(rows + key, seq, d_head, ld, k_pad, 0, d_head, 1, room.key_rows);
  for (i64 t = 0; t < seq; t++) {
    fill(d_rows + t * ld + key, d_head, 0);
    fill(d_rows + t * ld + value, d_head, 0);
  }
  for (i64 head = kv_head * each; head < (kv_head + 1) * each; head++) {
    const float* sums = log_sums + (b * s.n_heads + head) * seq;
    for (i64 i = 0; i < seq; i += QUERIES) {
      const Span span = span_of(s, b, i);
      const i64 n = span.to - span.from, in_head = s.d_head / P::DEPTH;
      const i64 n_packed = up_to(seq, UNIT) - span.from;
      const i64 n_keys = least(span.to, seq) - span.from;  // without those padded
      const float *query = rows + i * ld + head * d_head, *of_out = d_out + (b * seq + i) * wide + head * d_head;
      const float* result = out + (b * seq + i) * wide + head * d_head;
      multiply<P, false>(span.m, n, in_head, left_rows<P>(query, span.m, d_head, ld, room.left),
                         room.keys + span.from * in_head, d_head, room.scores, s.ld(), n_packed);
      multiply<P, false>(span.m, n, in_head, left_rows<P>(of_out, span.m, d_head, wide, room.left),
                         room.values + span.from * in_head, d_head, room.back, s.ld(), n_packed);
      for (i64 r = 0; r < span.m; r++) {
        float *row = room.scores + r * s.ld(), *back = room.back + r * s.ld();
        const i64 at = i + r;
        exponentials(s, span, row, first_of(s, b, at), at, sums[at]);
        const float mean = dot_row(result + r * wide, of_out + r * wide, d_head);
        for (i64 c = 0; c < n; c += W)
          store(back + c, load(row + c) * (load(back + c) - mean) * s.scale);
      }
      const Left<P> d_scores = left_rows<P>(room.back, span.m, n, s.ld(), room.left);
      for (i64 j = 0; j < d_head; j += PANEL) {
        const i64 width = least(PANEL, d_head - j);
        one_panel<P, false>(span.m, width, n / P::DEPTH, d_scores,
                            room.key_rows + j * (k_pad / P::DEPTH) + span.from / P::DEPTH * width, width,
                            d_rows + i * ld + head * d_head + j, ld);
      }
      const i64 depth = (span.m + P::DEPTH - 1) / P::DEPTH;
      pack<P>(query, span.m, d_head, ld, QUERIES, 0, d_head, 1, room.tile);
      multiply<P, true>(n_keys, d_head, depth, left_columns<P>(room.back, span.m, n, s.ld(), room.left),
                        room.tile, QUERIES, d_rows + span.from * ld + key, ld);
      pack<P>(of_out, span.m, d_head, wide, QUERIES, 0, d_head, 1, room.tile);
      multiply<P, true>(n_keys, d_head, depth,
                        left_columns<P>(room.scores, span.m, n, s.ld(), room.left), room.tile, QUERIES,
                        d_rows + span.from * ld + value, ld);
    }
  }
}

template <class P>
struct TokenRoom {
  float* normed;
  typename P::Unit* left;

  TokenRoom(Arena& arena, const Attention& s) {
    normed = arena.take<float>(TOKENS * s.d);
    left = arena.take<typename P::Unit>(left_units(TOKENS, most(s.width(), s.d)));
  }
};

template <class P>
void attention_forward(const Attention& s, float* y, float* inverse, float* qkv, float* out,
                       float* log_sums, Arena arena, i64* needed, i64 n_threads) {
  typedef typename P::Unit Unit;
  const i64 d = s.d, width = s.width(), wide = s.n_heads * s.d_head, n_tokens = s.n_tokens();
  Unit *w_qkv = arena.take<Unit>(packed_units(d, width)), *w_out = arena.take<Unit>(packed_units(wide, d));
  Arena count{nullptr};
  TokenRoom<P> measured(count, s);
  HeadRoom<P> measured_too(count, s, false);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const TokenRoom<P> room(own, s);
    const HeadRoom<P> head_room(own, s, false);
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < width; j += PANEL)
      pack_transposed<P>(s.w_qkv, d, width, d, d, j, least(width, j + PANEL), 1, w_qkv);
#pragma omp for schedule(static)
    for (i64 j = 0; j < d; j += PANEL)
      pack_transposed<P>(s.w_out, wide, d, wide, wide, j, least(d, j + PANEL), s.times, w_out);
#pragma omp for schedule(static)
    for (i64 t = 0; t < n_tokens; t += TOKENS) {
      const i64 m = least(TOKENS, n_tokens - t);
      norm_rows(m, d, s.x + t * d, s.norm, s.eps, room.normed, inverse + t);
      multiply<P, false>(m, width, d / P::DEPTH, left_rows<P>(room.normed, m, d, d, room.left), w_qkv,
                         d, qkv + t * width, width);
      rotate_rows(s, t, m, qkv + t * width, 1);
    }
#pragma omp for schedule(static)
    for (i64 task = 0; task < s.batch * s.n_heads; task++) {
      const i64 b = task / s.n_heads, head = task % s.n_heads;
      attend<P>(s, b, head, qkv, out + b * s.seq * wide + head * s.d_head, log_sums + task * s.seq,
                head_room);
    }
#pragma omp for schedule(static)
    for (i64 t = 0; t < n_tokens; t += TOKENS) {
      const i64 m = least(TOKENS, n_tokens - t);
      memcpy(y + t * d, s.x + t * d, m * d * sizeof(float));
      multiply<P, true>(m, d, wide / P::DEPTH, left_rows<P>(out + t * wide, m, wide, wide, room.left),
                        w_out, wide, y + t * d, d);
    }
  }
}

struct AttentionGradients {
  float *x, *norm, *w_qkv, *w_out;  // null where one is not asked for; x is
};

template <class P>
struct TileOperands {
  float* norm;
  typename P::Unit *left_qkv, *left_y, *right_normed, *right_out;

  TileOperands(Arena& arena, const Attention& s) {
    typedef typename P::Unit Unit;
    norm = arena.take<float>(s.d);
    left_qkv = arena.take<Unit>(left_units(TOKENS, s.width()));
    left_y = arena.take<Unit>(left_units(TOKENS, s.d));
    right_normed = arena.take<Unit>(packed_units(TOKENS, s.d));
    right_out = arena.take<Unit>(packed_units(TOKENS, s.n_heads * s.d_head));
  }
};

template <class P>
struct TileLefts {
  Left<P> qkv, y;
};

template <class P>
void attention_backward(const Attention& s, const float* inverse, const float* qkv, const float* out,
                        const float* log_sums, const float* dy, const AttentionGradients& to,
                        Arena arena, i64* needed, i64 n_threads) {
  typedef typename P::Unit Unit;
  const i64 d = s.d, width = s.width(), wide = s.n_heads * s.d_head, n_tokens = s.n_tokens();
  const i64 n_tiles = (n_tokens + TOKENS - 1) / TOKENS;
  Unit *w_qkv = arena.take<Unit>(packed_units(width, d)), *w_out = arena.take<Unit>(packed_units(d, wide));
  float *d_out = arena.take<float>(n_tokens * wide), *d_qkv = arena.take<float>(n_tokens * width);
  Arena count{nullptr};
  float* measured_back = count.take<float>(TOKENS * d);
  TokenRoom<P> measured(count, s);
  HeadRoom<P> measured_too(count, s, true);
  const Tiles<TileOperands<P>, TileLefts<P>, Attention> tiles(arena, s, n_threads);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
  (void)measured_back;
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    float* back = own.take<float>(TOKENS * d);
    const TokenRoom<P> room(own, s);
    const HeadRoom<P> head_room(own, s, true);
    const i64 team = team_size(), slot = thread_id();
    const TileOperands<P> mine = tiles.of(slot);
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < d; j += PANEL)
      pack<P>(s.w_qkv, width, d, d, width, j, least(d, j + PANEL), 1, w_qkv);
#pragma omp for schedule(static)
    for (i64 j = 0; j < wide; j += PANEL)
      pack<P>(s.w_out, d, wide, wide, d, j, least(wide, j + PANEL), s.times, w_out);
#pragma omp for schedule(static)
    for (i64 t = 0; t < n_tokens; t += TOKENS) {
      const i64 m = least(TOKENS, n_tokens - t);
      multiply<P, false>(m, wide, d / P::DEPTH, left_rows<P>(dy + t * d, m, d, d, room.left), w_out, d,
                         d_out + t * wide, wide);
    }
#pragma omp for schedule(static)
    for (i64 task = 0; task < s.batch * s.n_kv_heads; task++)
      attend_backward<P>(s, task / s.n_kv_heads, task % s.n_kv_heads, qkv, out, d_out, log_sums, d_qkv,
                         head_room);
    for (i64 first = 0; first < n_tiles; first += team) {
      if (first + slot < n_tiles) {
        const i64 t = (first + slot) * TOKENS, m = least(TOKENS, n_tokens - t);
        float* g = d_qkv + t * width;
        rotate_rows(s, t, m, g, -1);
        multiply<P, false>(m, d, width / P::DEPTH, left_rows<P>(g, m, width, width, room.left), w_qkv,
                           width, back, d);
        norm_rows(m, d, s.x + t * d, s.norm, s.eps, room.normed, nullptr);
        memcpy(to.x + t * d, dy + t * d, m * d * sizeof(float));
        fill(mine.norm, d, 0);
        norm_rows_backward(m, d, s.x + t * d, s.norm, inverse + t, back, to.x + t * d, mine.norm);
        if (to.w_qkv) pack<P>(room.normed, m, d, d, TOKENS, 0, d, 1, mine.right_normed);
        if (to.w_out) pack<P>(out + t * wide, m, wide, wide, TOKENS, 0, wide, 1, mine.right_out);
        tiles.lefts[slot].qkv = left_columns<P>(g, m, width, width, mine.left_qkv);
        tiles.lefts[slot].y = left_columns<P>(dy + t * d, m, d, d, mine.left_y);
      }
#pragma omp barrier
      for (i64 other = 0; other < team && first + other < n_tiles; other++) {
        const i64 m = least(TOKENS, n_tokens - (first + other) * TOKENS);
        const TileOperands<P> tile = tiles.of(other);
        if (to.w_qkv) add_outer<P>(m, width, d, tiles.lefts[other].qkv, tile.right_normed, TOKENS, to.w_qkv);
        if (to.w_out) add_outer<P>(m, d, wide, tiles.lefts[other].y, tile.right_out, TOKENS, to.w_out);
        if (to.norm && slot == 0)
          for (i64 c = 0; c < d; c++) to.norm[c] += tile.norm[c];
      }
#pragma omp barrier
    }
    if (to.w_out && s.times != 1) scale_own_rows(d, wide, s.times, to.w_out);
  }
}

}  // namespace

// x, y, dx, dy (batch * seq, d); norm (d); w_qkv (width, d), width that of all heads' queries, keys and
// values; w_out (d, d); inverse (T); qkv (T, width), rotated; out (T, d); log_sums (batch, heads, seq).
// numbers: eps, the scale of scores, times. Gradients of weights are zeros before; null: not asked for. room as in mlp.cpp.
EXPORT(attention_forward)(const float* x, const float* norm, const float* w_qkv, const float* w_out,
                          const float* cos, const float* sin, const int32_t* first, float* y,
                          float* inverse, float* qkv, float* out, float* log_sums, i64 batch, i64 seq,
                          i64 d, i64 n_heads, i64 n_kv_heads, i64 d_head, const float* numbers,
                          i64 is_bf16, char* room, i64* needed, i64 n_threads) {
  const Attention s{x, norm, w_qkv, w_out, cos, sin, first, batch, seq, d, n_heads, n_kv_heads, d_head,
                    numbers[0], numbers[1], numbers[2]};
  if (is_bf16)
    attention_forward<BFloat16>(s, y, inverse, qkv, out, log_sums, {room}, needed, n_threads);
  else
    attention_forward<Float32>(s, y, inverse, qkv, out, log_sums, {room}, needed, n_threads);
}

EXPORT(attention_backward)(const float* x, const float* norm, const float* w_qkv, const float* w_out,
                           const float* cos, const float* sin, const int32_t* first,
                           const float* inverse, const float* qkv, const float* out,
                           const float* log_sums, const float* dy, float* dx, float* dnorm,
                           float* dw_qkv, float* dw_out, i64 batch, i64 seq, i64 d, i64 n_heads,
                           i64 n_kv_heads, i64 d_head, const float* numbers, i64 is_bf16, char* room,
                           i64* needed, i64 n_threads) {
  const Attention s{x, norm, w_qkv, w_out, cos, sin, first, batch, seq, d, n_heads, n_kv_heads, d_head,
                    numbers[0], numbers[1], numbers[2]};
  const AttentionGradients to{dx, dnorm, dw_qkv, dw_out};
  if (is_bf16)
    attention_backward<BFloat16>(s, inverse, qkv, out, log_sums, dy, to, {room}, needed, n_threads);
  else
    attention_backward<Float32>(s, inverse, qkv, out, log_sums, dy, to, {room}, needed, n_threads);
}
