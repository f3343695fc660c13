// The end of the trunk: cross entropy of the logits W (times * norm(x)), and its gradients in the same
// pass, a tile of tokens at a time, so that no more logits exist than a tile's.
#include "activations.h"
#include "trunk.h"

namespace {

constexpr i64 ROWS = 48;     // tokens of a tile: their logits stay in the second-level cache
constexpr i64 CHUNK = 1024;  // entries of the vocabulary that a product sums over at once
constexpr i64 IGNORED = -100;

struct Head {
  const float *x, *norm, *w;
  const i64* targets;
  i64 n_tokens, d, n_entries;
  float eps, times;
  i64 padded() const { return up_to(n_entries, UNIT); }
  i64 ld() const { return padded() + UNIT; }
};

struct HeadGradients {
  float *x, *norm, *w;  // all null: the losses alone; else x is asked for
};

template <class P>
struct TileOperands {
  float *logits, *norm;
  typename P::Unit *left, *right;

  TileOperands(Arena& arena, const Head& s) {
    logits = arena.take<float>(ROWS * s.ld());
    norm = arena.take<float>(s.d);
    left = arena.take<typename P::Unit>(left_units(ROWS, s.padded()));
    right = arena.take<typename P::Unit>(packed_units(ROWS, s.d));
  }
};

template <class P>
struct Room {
  float *norm, *normed, *back, *inverse;
  typename P::Unit* left;

  Room(Arena& arena, const Head& s) {
    norm = arena.take<float>(s.d);
    normed = arena.take<float>(ROWS * s.d);
    back = arena.take<float>(ROWS * s.d);
    inverse = arena.take<float>(ROWS);
    left = arena.take<typename P::Unit>(left_units(ROWS, most(s.padded(), s.d)));
  }
};

// A row of logits becomes its gradient, times `scale`. Returns the loss.
inline float cross_entropy(float* row, const Head& s, i64 target, float scale, bool gradient) {
  for (i64 c = s.n_entries; c < s.padded(); c++) row[c] = -INFINITY;
  vec top = splat(-INFINITY);
  for (i64 c = 0; c < s.padded(); c += W) top = at_least(load(row + c), top);
  float highest = -INFINITY, lanes[W];
  store(lanes, top);
  for (int i = 0; i < W; i++) highest = lanes[i] > highest ? lanes[i] : highest;
  const float at = row[target];
  vec all = {};
  for (i64 c = 0; c < s.padded(); c += W) {
    vec e = exp_of(load(row + c) - highest);
    if (c + W > s.n_entries)
      for (i64 i = most(0, s.n_entries - c); i < W; i++) e[i] = 0;
    store(row + c, e);
    all += e;
  }
  const float total = sum(all);
  if (gradient) {
    const float each = scale / total;
    for (i64 c = 0; c < s.padded(); c += W) store(row + c, load(row + c) * each);
    row[target] -= scale;
  }
  return logf(total) + (highest - at);
}

template <class P>
void cross_entropy_head(const Head& s, float* losses, const HeadGradients& to, float scale,
                        Arena arena, i64* needed, i64 n_threads) {
  const i64 d = s.d, v = s.padded(), ld = s.ld(), n_tiles = (s.n_tokens + ROWS - 1) / ROWS;
  const bool gradient = to.x != nullptr;
  typename P::Unit *forward = arena.take<typename P::Unit>(packed_units(d, v)), *backward = nullptr;
  if (gradient) backward = arena.take<typename P::Unit>(packed_units(v, d));
  Arena count{nullptr};
  Room<P> measured(count, s);
  const Tiles<TileOperands<P>, Left<P>, Head> tiles(arena, s, n_threads);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const Room<P> room(own, s);
    const i64 team = team_size(), slot = thread_id();
    const TileOperands<P> mine = tiles.of(slot);
    for (i64 c = 0; c < d; c++) room.norm[c] = s.norm[c] * s.times;
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < v; j += PANEL)
      pack_transposed<P>(s.w, d, s.n_entries, d, d, j, least(v, j + PANEL), 1, forward);
#pragma omp for schedule(static)
    for (i64 j = 0; j < d; j += PANEL)
      if (gradient) pack<P>(s.w, s.n_entries, d, d, v, j, least(d, j + PANEL), 1, backward);
    for (i64 first = 0; first < n_tiles; first += team) {
      if (first + slot < n_tiles) {
        const i64 t = (first + slot) * ROWS, m = least(ROWS, s.n_tokens - t);
        const float* x = s.x + t * d;
        norm_rows(m, d, x, room.norm, s.eps, room.normed, room.inverse);
        multiply<P, false>(m, v, d / P::DEPTH, left_rows<P>(room.normed, m, d, d, room.left), forward,
                           d, mine.logits, ld);
        for (i64 i = 0; i < m; i++) {
          float* row = mine.logits + i * ld;
          const i64 target = s.targets[t + i];
          losses[t + i] = target == IGNORED ? 0 : cross_entropy(row, s, target, scale, gradient);
          if (target == IGNORED) fill(row, v, 0);
        }
        if (gradient) {
          const Left<P> rows = left_rows<P>(mine.logits, m, v, ld, room.left);
          fill(room.back, m * d, 0);
          for (i64 c = 0; c < v; c += CHUNK)  // a panel's part of it stays in the cache
            for (i64 j = 0; j < d; j += PANEL) {
              const i64 width = least(PANEL, d - j), depth = least(CHUNK, v - c) / P::DEPTH;
              one_panel<P, true>(m, width, depth, {rows.at + c / P::DEPTH, rows.row, rows.step},
                                 backward + j * (v / P::DEPTH) + c / P::DEPTH * width, width,
                                 room.back + j, d);
            }
          fill(to.x + t * d, m * d, 0);
          fill(mine.norm, d, 0);
          norm_rows_backward(m, d, x, room.norm, room.inverse, room.back, to.x + t * d, mine.norm);
          if (to.w) pack<P>(room.normed, m, d, d, ROWS, 0, d, 1, mine.right);
          if (to.w) tiles.lefts[slot] = left_columns<P>(mine.logits, m, v, ld, mine.left);
        }
      }
#pragma omp barrier
      for (i64 other = 0; gradient && other < team && first + other < n_tiles; other++) {
        const i64 m = least(ROWS, s.n_tokens - (first + other) * ROWS);
        const TileOperands<P> tile = tiles.of(other);
        if (to.w) add_outer<P>(m, s.n_entries, d, tiles.lefts[other], tile.right, ROWS, to.w);
        if (to.norm && slot == 0)
          for (i64 c = 0; c < d; c++) to.norm[c] += tile.norm[c] * s.times;
      }
#pragma omp barrier
    }
  }
}

}  // namespace

// x, dx (T, d); norm, dnorm (d); w, dw (V, d); targets (T), -100 where there is none; losses (T), their
// mean and how many they are in result[0] and [1] (-1: a target is outside the vocabulary, and nothing
// is done). numbers: eps, times. Gradients are the mean's; those of weights are zeros before; null: not
// asked for.
EXPORT(head)(const float* x, const float* norm, const float* w, const i64* targets, float* losses,
             double* result, float* dx, float* dnorm, float* dw, i64 n_tokens, i64 d, i64 n_entries,
             const float* numbers, i64 is_bf16, char* room, i64* needed, i64 n_threads) {
  const Head s{x, norm, w, targets, n_tokens, d, n_entries, numbers[0], numbers[1]};
  const HeadGradients to{dx, dnorm, dw};
  i64 n = 0;
  for (i64 t = 0; room && t < n_tokens; t++) {
    n += targets[t] != IGNORED;
    if (targets[t] != IGNORED && (targets[t] < 0 || targets[t] >= n_entries)) {
      result[1] = -1;
      return;
    }
  }
  const float scale = 1 / (float)n;
  if (is_bf16)
    cross_entropy_head<BFloat16>(s, losses, to, scale, {room}, needed, n_threads);
  else
    cross_entropy_head<Float32>(s, losses, to, scale, {room}, needed, n_threads);
  if (!room) return;
  double all = 0;
  for (i64 t = 0; t < n_tokens; t++) all += losses[t];
  result[0] = all / n;
  result[1] = n;
}
