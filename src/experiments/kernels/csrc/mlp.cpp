// The feed-forward half of a block: y = x + times * W_out act(W_in norm(x)), or gated, with
// act(W_gate norm(x)) * (W_in norm(x)) between; forward and backward.
#include "activations.h"
#include "trunk.h"

namespace {

struct Mlp {
  const float *x, *norm, *w_in, *w_gate, *w_out;  // w_gate: null where there is none
  i64 n_tokens, d, d_ff, activation;
  float eps, times;
  i64 hidden() const { return up_to(d_ff, UNIT); }
};

// The weights as right operands: transposed for the forward pass, as they are for the backward one.
template <class P>
struct Weights {
  typename P::Unit *in, *gate, *out;

  Weights(Arena& arena, const Mlp& s) : gate(nullptr) {
    const i64 each = packed_units(s.d, s.d_ff);
    in = arena.take<typename P::Unit>(each);
    if (s.w_gate) gate = arena.take<typename P::Unit>(each);
    out = arena.take<typename P::Unit>(each);
  }

  void pack_forward(const Mlp& s) const {
    const i64 f = s.hidden();
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < f; j += PANEL) {
      pack_transposed<P>(s.w_in, s.d, s.d_ff, s.d, s.d, j, least(f, j + PANEL), 1, in);
      if (gate) pack_transposed<P>(s.w_gate, s.d, s.d_ff, s.d, s.d, j, least(f, j + PANEL), 1, gate);
    }
#pragma omp for schedule(static)
    for (i64 j = 0; j < s.d; j += PANEL)
      pack_transposed<P>(s.w_out, s.d_ff, s.d, s.d_ff, f, j, least(s.d, j + PANEL), s.times, out);
  }

  void pack_backward(const Mlp& s) const {
    const i64 f = s.hidden();
#pragma omp for schedule(static) nowait
    for (i64 j = 0; j < s.d; j += PANEL) {
      pack<P>(s.w_in, s.d_ff, s.d, s.d, f, j, least(s.d, j + PANEL), 1, in);
      if (gate) pack<P>(s.w_gate, s.d_ff, s.d, s.d, f, j, least(s.d, j + PANEL), 1, gate);
    }
#pragma omp for schedule(static)
    for (i64 j = 0; j < f; j += PANEL)
      pack<P>(s.w_out, s.d, s.d_ff, s.d_ff, s.d, j, least(f, j + PANEL), s.times, out);
  }
};

template <class P>
struct ForwardRoom {
  float *normed, *act;
  typename P::Unit* left;

  ForwardRoom(Arena& arena, const Mlp& s) {
    const i64 f = s.hidden();
    normed = arena.take<float>(TOKENS * s.d);
    act = arena.take<float>(TOKENS * f);
    left = arena.take<typename P::Unit>(left_units(TOKENS, most(f, s.d)));
  }
};

template <class P>
void mlp_forward(const Mlp& s, float* y, float* inverse, float* h, float* h_gate, Arena arena,
                 i64* needed, i64 n_threads) {
  const i64 d = s.d, f = s.hidden(), n_tiles = (s.n_tokens + TOKENS - 1) / TOKENS;
  const Weights<P> weights(arena, s);
  Arena count{nullptr};
  ForwardRoom<P> measured(count, s);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const ForwardRoom<P> room(own, s);
    weights.pack_forward(s);
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < n_tiles; tile++) {
      const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
      const float* x = s.x + t * d;
      float *hidden = h + t * f, *gate = s.w_gate ? h_gate + t * f : nullptr;
      norm_rows(m, d, x, s.norm, s.eps, room.normed, inverse + t);
      const Left<P> normed = left_rows<P>(room.normed, m, d, d, room.left);
      multiply<P, false>(m, f, d / P::DEPTH, normed, weights.in, d, hidden, f);
      if (gate) multiply<P, false>(m, f, d / P::DEPTH, normed, weights.gate, d, gate, f);
      with_activation(s.activation, [&](auto function) {
        for (i64 i = 0; i < m * f; i += W)
          store(room.act + i, gate ? function.value(load(gate + i)) * load(hidden + i)
                                   : function.value(load(hidden + i)));
      });
      memcpy(y + t * d, x, m * d * sizeof(float));
      multiply<P, true>(m, d, f / P::DEPTH, left_rows<P>(room.act, m, f, f, room.left), weights.out, f,
                        y + t * d, d);
    }
  }
}

// A tile's operands of the sums over tokens, for all threads to read.
template <class P>
struct TileOperands {
  float *hidden, *gate, *norm;  // gradients of hidden units, of the norm's weights
  typename P::Unit *left_in, *left_gate, *left_out, *right_normed, *right_act;

  TileOperands(Arena& arena, const Mlp& s) : gate(nullptr), left_gate(nullptr) {
    const i64 f = s.hidden();
    hidden = arena.take<float>(TOKENS * (f + UNIT));
    if (s.w_gate) gate = arena.take<float>(TOKENS * (f + UNIT));
    norm = arena.take<float>(s.d);
    left_in = arena.take<typename P::Unit>(left_units(TOKENS, f));
    if (s.w_gate) left_gate = arena.take<typename P::Unit>(left_units(TOKENS, f));
    left_out = arena.take<typename P::Unit>(left_units(TOKENS, s.d));
    right_normed = arena.take<typename P::Unit>(packed_units(TOKENS, s.d));
    right_act = arena.take<typename P::Unit>(packed_units(TOKENS, f));
  }
};

template <class P>
struct BackwardRoom {
  float *normed, *act, *back;
  typename P::Unit* left;

  BackwardRoom(Arena& arena, const Mlp& s) {
    const i64 f = s.hidden();
    normed = arena.take<float>(TOKENS * s.d);
    act = arena.take<float>(TOKENS * f);
    back = arena.take<float>(TOKENS * s.d);
    left = arena.take<typename P::Unit>(left_units(TOKENS, most(f, s.d)));
  }
};

struct Gradients {
  float *x, *norm, *w_in, *w_gate, *w_out;  // null where one is not asked for; x is
};

// The left operands of a tile, once its gradients are known.
template <class P>
struct TileLefts {
  Left<P> in, gate, out;
};

template <class P>
void mlp_backward(const Mlp& s, const float* inverse, const float* h, const float* h_gate,
                  const float* dy, const Gradients& to, Arena arena, i64* needed, i64 n_threads) {
  const i64 d = s.d, f = s.hidden(), ld = f + UNIT, n_tiles = (s.n_tokens + TOKENS - 1) / TOKENS;
  const Weights<P> weights(arena, s);
  Arena count{nullptr};
  BackwardRoom<P> measured(count, s);
  const Tiles<TileOperands<P>, TileLefts<P>, Mlp> tiles(arena, s, n_threads);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const BackwardRoom<P> room(own, s);
    const i64 team = team_size(), slot = thread_id();
    const TileOperands<P> mine = tiles.of(slot);
    weights.pack_backward(s);
    for (i64 first = 0; first < n_tiles; first += team) {
      if (first + slot < n_tiles) {
        const i64 t = (first + slot) * TOKENS, m = least(TOKENS, s.n_tokens - t);
        const float *x = s.x + t * d, *g = dy + t * d, *hidden = h + t * f;
        const float* gate = s.w_gate ? h_gate + t * f : nullptr;
        multiply<P, false>(m, f, d / P::DEPTH, left_rows<P>(g, m, d, d, room.left), weights.out, d,
                           mine.hidden, ld);
        with_activation(s.activation, [&](auto function) {
          for (i64 i = 0; i < m; i++)
            for (i64 c = 0; c < f; c += W) {
              float* back = mine.hidden + i * ld + c;
              const vec grad = load(back), own_h = load(hidden + i * f + c);
              vec value, slope;
              if (gate) {
                slope = function.slope(load(gate + i * f + c), value);
                store(mine.gate + i * ld + c, grad * own_h * slope);
                store(back, grad * value);
                value *= own_h;
              } else {
                slope = function.slope(own_h, value);
                store(back, grad * slope);
              }
              store(room.act + i * f + c, value);
            }
        });
        multiply<P, false>(m, d, f / P::DEPTH, left_rows<P>(mine.hidden, m, f, ld, room.left),
                           weights.in, f, room.back, d);
        if (gate)
          multiply<P, true>(m, d, f / P::DEPTH, left_rows<P>(mine.gate, m, f, ld, room.left),
                            weights.gate, f, room.back, d);
        norm_rows(m, d, x, s.norm, s.eps, room.normed, nullptr);
        memcpy(to.x + t * d, g, m * d * sizeof(float));
        fill(mine.norm, d, 0);
        norm_rows_backward(m, d, x, s.norm, inverse + t, room.back, to.x + t * d, mine.norm);
        if (to.w_in || to.w_gate)
          pack<P>(room.normed, m, d, d, TOKENS, 0, d, 1, mine.right_normed);
        if (to.w_out) pack<P>(room.act, m, f, f, TOKENS, 0, f, 1, mine.right_act);
        tiles.lefts[slot].in = left_columns<P>(mine.hidden, m, f, ld, mine.left_in);
        if (gate) tiles.lefts[slot].gate = left_columns<P>(mine.gate, m, f, ld, mine.left_gate);
        tiles.lefts[slot].out = left_columns<P>(g, m, d, d, mine.left_out);
      }
#pragma omp barrier
      for (i64 other = 0; other < team && first + other < n_tiles; other++) {
        const i64 m = least(TOKENS, s.n_tokens - (first + other) * TOKENS);
        const TileOperands<P> tile = tiles.of(other);
        const TileLefts<P>& left = tiles.lefts[other];
        if (to.w_in) add_outer<P>(m, s.d_ff, d, left.in, tile.right_normed, TOKENS, to.w_in);
        if (to.w_gate) add_outer<P>(m, s.d_ff, d, left.gate, tile.right_normed, TOKENS, to.w_gate);
        if (to.w_out) add_outer<P>(m, d, s.d_ff, left.out, tile.right_act, TOKENS, to.w_out);
        if (to.norm && slot == 0)
          for (i64 c = 0; c < d; c++) to.norm[c] += tile.norm[c];
      }
#pragma omp barrier
    }
    if (to.w_out && s.times != 1) scale_own_rows(d, s.d_ff, s.times, to.w_out);
  }
}

}  // namespace

// x, y, dx, dy (T, d); norm (d); w_in, w_gate (d_ff, d), w_out (d, d_ff); inverse (T); h and h_gate
// (T, d_ff up to a multiple of 16). numbers: eps, times. Gradients of weights are zeros before;
// null: not asked for. room: of *needed bytes, which is what a call without it finds out.
EXPORT(mlp_forward)(const float* x, const float* norm, const float* w_in, const float* w_gate,
                    const float* w_out, float* y, float* inverse, float* h, float* h_gate,
                    i64 n_tokens, i64 d, i64 d_ff, i64 activation, const float* numbers,
                    i64 is_bf16, char* room, i64* needed, i64 n_threads) {
  const Mlp s{x, norm, w_in, w_gate, w_out, n_tokens, d, d_ff, activation, numbers[0], numbers[1]};
  if (is_bf16)
    mlp_forward<BFloat16>(s, y, inverse, h, h_gate, {room}, needed, n_threads);
  else
    mlp_forward<Float32>(s, y, inverse, h, h_gate, {room}, needed, n_threads);
}

EXPORT(mlp_backward)(const float* x, const float* norm, const float* w_in, const float* w_gate,
                     const float* w_out, const float* inverse, const float* h, const float* h_gate,
                     const float* dy, float* dx, float* dnorm, float* dw_in, float* dw_gate,
                     float* dw_out, i64 n_tokens, i64 d, i64 d_ff, i64 activation,
                     const float* numbers, i64 is_bf16, char* room, i64* needed, i64 n_threads) {
  const Mlp s{x, norm, w_in, w_gate, w_out, n_tokens, d, d_ff, activation, numbers[0], numbers[1]};
  const Gradients to{dx, dnorm, dw_in, dw_gate, dw_out};
  if (is_bf16)
    mlp_backward<BFloat16>(s, inverse, h, h_gate, dy, to, {room}, needed, n_threads);
  else
    mlp_backward<Float32>(s, inverse, h, h_gate, dy, to, {room}, needed, n_threads);
}
