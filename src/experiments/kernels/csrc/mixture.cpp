// The half of a block that is a mixture of experts, with n = norm(x):
//
//     y = base + times * sum over a token's experts of gate_e W_out_e act(W_in_e n), or gated;
//
// gates are softmax or sigmoid of the router's product with n, and experts choose tokens or tokens
// experts; forward and backward. An expert's pairs are one thread's, and so is a token's sum over its
// experts, in their order: the same to the bit for any number of threads.
#include "routing.h"

namespace {

// Whether weights with rows of n are read where they are, by an expert of n_rows: to pack them pays
// with many. Rows of no more than a panel are packed already.
inline bool where_they_are(i64 n, i64 n_rows) {
  return n % UNIT == 0 && (n <= PANEL || n_rows <= TOKENS);
}

// ---------------------------------------------------------------------------------- forward

template <class P>
struct ForwardRoom {
  float *rows, *act;
  typename P::Unit *left, *in, *gate, *out;

  ForwardRoom(Arena& arena, const Mixture& s) {
    const i64 f = s.hidden(), each = packed_units(s.d, f);
    rows = arena.take<float>(TOKENS * s.d);
    act = arena.take<float>(TOKENS * f);
    left = arena.take<typename P::Unit>(left_units(TOKENS, most(f, s.d)));
    in = arena.take<typename P::Unit>(each);
    gate = arena.take<typename P::Unit>(s.w_gate ? each : 0);
    out = arena.take<typename P::Unit>(each);
  }
};

// An expert's hidden units before the activation, and what it writes, before its gates.
template <class P>
void expert_forward(const Mixture& s, i64 e, const Pairs& pairs, const float* normed, float* h,
                    float* h_gate, float* out, const ForwardRoom<P>& room) {
  const i64 d = s.d, f = s.hidden(), one = e * d * s.d_ff;
  const i64 begin = pairs.begin(e), end = pairs.ends[e];
  if (begin == end) return;
  const bool as_is = where_they_are(s.d_ff, end - begin);
  const Right<P> in = right_rows<P>(s.w_in + one, d, s.d_ff, s.d_ff, as_is, room.in);
  const Right<P> gate =
      s.w_gate ? right_rows<P>(s.w_gate + one, d, s.d_ff, s.d_ff, as_is, room.gate) : in;
  const Right<P> back = right_rows<P>(s.w_out + one, s.d_ff, d, d, where_they_are(d, end - begin), room.out);
  for (i64 p = begin; p < end; p += TOKENS) {
    const i64 m = least(TOKENS, end - p);
    float *hidden = h + p * f, *gates = s.w_gate ? h_gate + p * f : nullptr;
    for (i64 i = 0; i < m; i++)
      memcpy(room.rows + i * d, normed + pairs.tokens[p + i] * d, d * sizeof(float));
    const Left<P> left = left_rows<P>(room.rows, m, d, d, room.left);
    multiply<P, false>(m, f, d / P::DEPTH, left, in, hidden, f);
    if (gates) multiply<P, false>(m, f, d / P::DEPTH, left, gate, gates, f);
    with_activation(s.activation, [&](auto function) {
      for (i64 i = 0; i < m * f; i += W)
        store(room.act + i, gates ? function.value(load(gates + i)) * load(hidden + i)
                                  : function.value(load(hidden + i)));
    });
    multiply<P, false>(m, d, (s.d_ff + P::DEPTH - 1) / P::DEPTH,
                       left_rows<P>(room.act, m, f, f, room.left), back, out + p * d, d);
  }
}

template <class P>
void mixture_forward(const Mixture& s, const float* base, const float* bias, float* y, float* normed,
                     float* inverse, const Choices& to, int32_t* plan, float* h, float* h_gate,
                     Arena arena, i64* needed, i64 n_threads) {
  const i64 d = s.d, n_tiles = s.n_tiles();
  const Pairs pairs = s.pairs(plan);
  float* router = arena.take<float>(packed_units(d, s.n_experts));
  float* out = arena.take<float>(s.n_pairs() * d);
  Arena count{nullptr};
  RoutingRoom measured(count, s);
  ForwardRoom<P> also_measured(count, s);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const RoutingRoom routing(own, s);
    const ForwardRoom<P> room(own, s);
#pragma omp for schedule(static)
    for (i64 j = 0; j < s.logits(); j += PANEL)
      pack_transposed<Float32>(s.router, d, s.n_experts, d, d, j, least(s.logits(), j + PANEL), 1,
                               router);
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < n_tiles; tile++) {
      const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
      norm_rows(m, d, s.x + t * d, s.norm, s.eps, normed + t * d, inverse + t);
      route_tile(s, t, m, normed + t * d, router, bias, to, routing);
    }
    if (s.experts_choose) {
#pragma omp for schedule(static)
      for (i64 e = 0; e < s.n_experts; e++) choose_tokens(s, e, to, routing);
    }
#pragma omp single
    s.experts_choose ? pairs.sort_by_token(to.index, s.k) : pairs.sort_by_expert(to.index, s.k);
#pragma omp for schedule(dynamic)
    for (i64 e = 0; e < s.n_experts; e++)
      expert_forward<P>(s, e, pairs, normed, h, h_gate, out, room);
#pragma omp for schedule(static)
    for (i64 t = 0; t < s.n_tokens; t++) {
      const i64 from = pairs.offsets[t], end = pairs.offsets[t + 1];
      for (i64 c = 0; c < d; c += W) {
        vec total = {};
        for (i64 j = from; j < end; j++) {
          const i64 p = pairs.places[j];
          total += to.chosen[pairs.slots[p]] * load(out + p * d + c);
        }
        store(y + t * d + c, load(base + t * d + c) + s.times * total);
      }
    }
  }
}

// ---------------------------------------------------------------------------------- backward

struct Gradients {
  float *x, *norm, *router, *w_in, *w_gate, *w_out;  // null where one is not asked for; x is
};

template <class P>
struct BackwardRoom {
  float *rows, *grad, *act, *hidden, *gate;  // rows d + UNIT or hidden() + UNIT apart
  typename P::Unit *left, *in, *in_gate, *out, *right_in, *right_gate, *right_out;

  BackwardRoom(Arena& arena, const Mixture& s) {
    const i64 f = s.hidden(), each = packed_units(s.d, f), wide = most(f, s.d);
    rows = arena.take<float>(TOKENS * (s.d + UNIT));
    grad = arena.take<float>(TOKENS * (s.d + UNIT));
    act = arena.take<float>(TOKENS * (f + UNIT));
    hidden = arena.take<float>(TOKENS * (f + UNIT));
    gate = arena.take<float>(s.w_gate ? TOKENS * (f + UNIT) : 0);
    left = arena.take<typename P::Unit>(left_units(TOKENS, wide));
    in = arena.take<typename P::Unit>(each);
    in_gate = arena.take<typename P::Unit>(s.w_gate ? each : 0);
    out = arena.take<typename P::Unit>(each);
    right_in = arena.take<typename P::Unit>(P::COPIES ? packed_units(TOKENS, f) : 0);
    right_gate = arena.take<typename P::Unit>(P::COPIES && s.w_gate ? packed_units(TOKENS, f) : 0);
    right_out = arena.take<typename P::Unit>(P::COPIES ? packed_units(TOKENS, s.d) : 0);
  }
};

// dw (rows, columns), an expert's, = or += the sum over m pairs of left^T right.
template <class P>
void outer(bool first, i64 m, i64 rows, i64 columns, const Left<P>& left, const Right<P>& right,
           float* dw) {
  const i64 depth = (m + P::DEPTH - 1) / P::DEPTH;
  if (first)
    multiply<P, false>(rows, columns, depth, left, right, dw, columns);
  else
    multiply<P, true>(rows, columns, depth, left, right, dw, columns);
}

// From the gradients of hidden units after the activation, before gates, which are in room.hidden: the
// pairs' gradients of gates, those before the activation, and activations times gates.
template <class P, class Function>
void activation_backward(const Mixture& s, i64 p, i64 m, const Pairs& pairs, const Saved& kept,
                         Function function, float* dchosen, const BackwardRoom<P>& room) {
  const i64 f = s.hidden(), ld = f + UNIT;
  for (i64 i = 0; i < m; i++) {
    const float weight = kept.chosen[pairs.slots[p + i]], *h = kept.h + (p + i) * f;
    const float* h_gate = s.w_gate ? kept.h_gate + (p + i) * f : nullptr;
    vec along = {};
    for (i64 c = 0; c < f; c += W) {
      const vec back = load(room.hidden + i * ld + c), grad = weight * back, own = load(h + c);
      vec value, slope = function.slope(h_gate ? load(h_gate + c) : own, value);
      if (h_gate) {
        store(room.gate + i * ld + c, grad * own * slope);
        slope = value;
        value *= own;
      }
      store(room.hidden + i * ld + c, grad * slope);
      store(room.act + i * ld + c, weight * value);
      along += back * value;
    }
    dchosen[pairs.slots[p + i]] = sum(along);
  }
}

// An expert's gradients of weights, of its pairs' gates and of what it has read, a row of dn a pair.
template <class P>
void expert_backward(const Mixture& s, i64 e, const Pairs& pairs, const Saved& kept, const float* dy,
                     const Gradients& to, float* dchosen, float* dn, const BackwardRoom<P>& room) {
  const i64 d = s.d, f = s.hidden(), one = e * d * s.d_ff, ld = f + UNIT, ld_d = d + UNIT;
  const i64 begin = pairs.begin(e), end = pairs.ends[e];
  if (begin == end) {
    float* const all[] = {to.w_in, to.w_gate, to.w_out};
    for (float* dw : all)
      if (dw) fill(dw + one, d * s.d_ff, 0);
    return;
  }
  pack_transposed<P>(s.w_out + one, d, s.d_ff, d, d, 0, f, 1, room.out);
  pack_transposed<P>(s.w_in + one, s.d_ff, d, s.d_ff, f, 0, d, 1, room.in);
  if (s.w_gate) pack_transposed<P>(s.w_gate + one, s.d_ff, d, s.d_ff, f, 0, d, 1, room.in_gate);
  for (i64 p = begin; p < end; p += TOKENS) {
    const i64 m = least(TOKENS, end - p);
    for (i64 i = 0; i < m; i++) {
      const i64 t = pairs.tokens[p + i];
      memcpy(room.rows + i * ld_d, kept.normed + t * d, d * sizeof(float));
      for (i64 c = 0; c < d; c += W) store(room.grad + i * ld_d + c, s.times * load(dy + t * d + c));
    }
    multiply<P, false>(m, f, d / P::DEPTH, left_rows<P>(room.grad, m, d, ld_d, room.left),
                       packed<P>(room.out, d), room.hidden, ld);
    with_activation(s.activation, [&](auto function) {
      activation_backward(s, p, m, pairs, kept, function, dchosen, room);
    });
    multiply<P, false>(m, d, f / P::DEPTH, left_rows<P>(room.hidden, m, f, ld, room.left),
                       packed<P>(room.in, f), dn + p * d, d);
    if (s.w_gate)
      multiply<P, true>(m, d, f / P::DEPTH, left_rows<P>(room.gate, m, f, ld, room.left),
                        packed<P>(room.in_gate, f), dn + p * d, d);
    if (to.w_in || to.w_gate) {
      const Left<P> read = left_columns<P>(room.rows, m, d, ld_d, room.left);
      if (to.w_in)
        outer<P>(p == begin, m, d, s.d_ff, read,
                 right_rows<P>(room.hidden, m, f, ld, true, room.right_in), to.w_in + one);
      if (to.w_gate)
        outer<P>(p == begin, m, d, s.d_ff, read,
                 right_rows<P>(room.gate, m, f, ld, true, room.right_gate), to.w_gate + one);
    }
    if (to.w_out)
      outer<P>(p == begin, m, s.d_ff, d, left_columns<P>(room.act, m, f, ld, room.left),
               right_rows<P>(room.grad, m, d, ld_d, true, room.right_out), to.w_out + one);
  }
}

template <class P>
void mixture_backward(const Mixture& s, const Saved& kept, int32_t* plan, const float* dy,
                      const float* dgates, const Gradients& to, Arena arena, i64* needed,
                      i64 n_threads) {
  const i64 d = s.d, n = s.n_experts, ld = s.logits() + UNIT, n_tiles = s.n_tiles();
  const Pairs pairs = s.pairs(plan);
  float* dchosen = arena.take<float>(s.n_pairs());
  float* dn = arena.take<float>(s.n_pairs() * d);
  const LogitsBackward logits{s, pairs, kept, dgates, dchosen};
  float* dlogits = arena.take<float>(logits.dense() ? s.n_tokens * ld : 0);
  float* dnorm = arena.take<float>(n_tiles * d);
  Arena count{nullptr};
  BackwardRoom<P> measured(count, s);
  if (!arena.base) {
    *needed = arena.used + n_threads * count.used;
    return;
  }
#pragma omp parallel num_threads(n_threads)
  {
    Arena own = arena.of_thread(count.used);
    const BackwardRoom<P> room(own, s);
#pragma omp for schedule(dynamic)
    for (i64 e = 0; e < n; e++) expert_backward<P>(s, e, pairs, kept, dy, to, dchosen, dn, room);
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < n_tiles; tile++) {
      const i64 t = tile * TOKENS, m = least(TOKENS, s.n_tokens - t);
      float* back = room.rows;
      for (i64 i = t; i < t + m; i++) {
        for (i64 c = 0; c < d; c += W) {
          vec total = {};
          for (i64 j = pairs.offsets[i]; j < pairs.offsets[i + 1]; j++)
            total += load(dn + pairs.places[j] * d + c);
          store(back + (i - t) * d + c, total);
        }
        logits.undivide(i);
        if (logits.dense())
          logits.fill_row(i, dlogits + i * ld);
        else
          logits.add_chosen(i, back + (i - t) * d);
      }
      if (logits.dense())
        multiply<Float32, true>(m, d, n, {dlogits + t * ld, ld, 1}, Right<Float32>{s.router, PANEL, d},
                                back, d);
      if (s.beside)
        fill(to.x + t * d, m * d, 0);
      else
        memcpy(to.x + t * d, dy + t * d, m * d * sizeof(float));
      fill(dnorm + tile * d, d, 0);
      norm_rows_backward(m, d, s.x + t * d, s.norm, kept.inverse + t, back, to.x + t * d,
                         dnorm + tile * d);
    }
    if (to.router && logits.dense()) {
      i64 from, end;
      own_rows(n, &from, &end);
      for (i64 t = 0; from < end && t < s.n_tokens; t += TOKENS)
        outer<Float32>(t == 0, least(TOKENS, s.n_tokens - t), end - from, d,
                       {dlogits + t * ld + from, 1, ld}, {kept.normed + t * d, PANEL, d},
                       to.router + from * d);
    } else if (to.router) {
#pragma omp for schedule(static) nowait
      for (i64 e = 0; e < n; e++) {
        fill(to.router + e * d, d, 0);
        for (i64 p = pairs.begin(e); p < pairs.ends[e]; p++)
          add_row(d, dchosen[pairs.slots[p]], kept.normed + pairs.tokens[p] * d, to.router + e * d);
      }
    }
#pragma omp single
    for (i64 tile = 0; to.norm && tile < n_tiles; tile++)
      for (i64 c = 0; c < d; c++) to.norm[c] = (tile ? to.norm[c] : 0) + dnorm[tile * d + c];
  }
}

}  // namespace

// x, base, y, normed, dx, dy (T, d); norm (d); router (E, d); bias (E), null where experts choose;
// w_in, w_gate (E, d, d_ff), w_out (E, d_ff, d); inverse (T); gates, dgates (T, E); chosen, index
// (T, k), or (E, k) where experts choose; plan: see Pairs; h, h_gate (pairs, d_ff up to a multiple of
// 16). sizes: see Mixture. numbers: eps, times. Gradients of weights are written; null: not asked
// for. room: of *needed bytes, which is what a call without it finds out.
EXPORT(mixture_forward)(const float* x, const float* norm, const float* router, const float* w_in,
                        const float* w_gate, const float* w_out, const float* base,
                        const float* bias, float* y, float* normed, float* inverse, float* gates,
                        float* chosen, i64* index, int32_t* plan, float* h, float* h_gate,
                        i64 n_tokens, i64 d, i64 n_experts, i64 d_ff, i64 k, i64 experts_choose,
                        i64 softmax, i64 beside, i64 activation, const float* numbers, i64 is_bf16,
                        char* room, i64* needed, i64 n_threads) {
  const i64 sizes[] = {n_tokens, d, n_experts, d_ff, k, experts_choose, softmax, beside, activation};
  const Mixture s(x, norm, router, w_in, w_gate, w_out, sizes, numbers);
  const auto run = is_bf16 ? mixture_forward<BFloat16> : mixture_forward<Float32>;
  run(s, base, bias, y, normed, inverse, {gates, chosen, index}, plan, h, h_gate, {room}, needed,
      n_threads);
}

EXPORT(mixture_backward)(const float* x, const float* norm, const float* router, const float* w_in,
                         const float* w_gate, const float* w_out, const float* normed,
                         const float* inverse, const float* gates, const float* chosen,
                         const i64* index, int32_t* plan, const float* h, const float* h_gate,
                         const float* dy, const float* dgates, float* dx, float* dnorm,
                         float* drouter, float* dw_in, float* dw_gate, float* dw_out, i64 n_tokens,
                         i64 d, i64 n_experts, i64 d_ff, i64 k, i64 experts_choose, i64 softmax,
                         i64 beside, i64 activation, const float* numbers, i64 is_bf16, char* room,
                         i64* needed, i64 n_threads) {
  const i64 sizes[] = {n_tokens, d, n_experts, d_ff, k, experts_choose, softmax, beside, activation};
  const Mixture s(x, norm, router, w_in, w_gate, w_out, sizes, numbers);
  const Saved kept{normed, inverse, gates, chosen, h, h_gate, index};
  const Gradients to{dx, dnorm, drouter, dw_in, dw_gate, dw_out};
  const auto run = is_bf16 ? mixture_backward<BFloat16> : mixture_backward<Float32>;
  run(s, kept, plan, dy, dgates, to, {room}, needed, n_threads);
}
