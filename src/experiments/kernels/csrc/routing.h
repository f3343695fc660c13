// Routing of a mixture of experts: gates, what is chosen, and the order of the pairs (token, expert).
#pragma once
#include "activations.h"
#include "trunk.h"

namespace {

// A row of n logits, with room for whole vectors, to gates in place.
inline void to_gates(float* row, i64 n, bool softmax) {
  const i64 whole = up_to(n, W);
  if (!softmax) {
    for (i64 c = 0; c < whole; c += W) store(row + c, 1.0f / (1.0f + exp_of(-load(row + c))));
    return;
  }
  for (i64 c = n; c < whole; c++) row[c] = -INFINITY;
  float highest = row[0];
  for (i64 c = 1; c < n; c++) highest = row[c] > highest ? row[c] : highest;
  vec total = {};
  for (i64 c = 0; c < whole; c += W) {
    const vec e = exp_of(load(row + c) - highest);
    store(row + c, e);
    total += e;
  }
  const float inverse = 1 / sum(total);
  for (i64 c = 0; c < whole; c += W) store(row + c, load(row + c) * inverse);
}

// The gradient of a row's logits, in place of that of its gates.
inline void from_gates(const float* gates, i64 n, bool softmax, float* grad) {
  if (softmax) {
    float along = 0;
    for (i64 c = 0; c < n; c++) along += gates[c] * grad[c];
    for (i64 c = 0; c < n; c++) grad[c] = gates[c] * (grad[c] - along);
  } else {
    for (i64 c = 0; c < n; c++) grad[c] *= gates[c] * (1 - gates[c]);
  }
}

// How many of n keys, whole vectors of them, are above the bound.
inline i64 n_above(const int32_t* keys, i64 n, int32_t bound) {
  int_vec found = {};
  for (i64 c = 0; c < n; c += W) {
    int_vec own;
    memcpy(&own, keys + c, sizeof own);
    found -= own > bound;
  }
  i64 total = 0;
  for (int lane = 0; lane < W; lane++) total += found[lane];
  return total;
}

// Indices of the k largest of n values, in the order of the indices; of equal values the first. Any
// values, NaN too, give k indices. keys: room for n, to whole vectors.
inline void largest(const float* values, i64 n, i64 k, int32_t* keys, i64* chosen) {
  const i64 whole = up_to(n, W);
  int32_t low = INT32_MAX, high = INT32_MIN;
  for (i64 i = 0; i < n; i++) {  // integers in the order of the floats
    const int32_t bits = (int32_t)bits_of(values[i]), key = bits ^ ((bits >> 31) & 0x7fffffff);
    keys[i] = key;
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  for (i64 i = n; i < whole; i++) keys[i] = INT32_MIN;
  // At least k keys are above `below`, fewer than k above `bound`, until exactly k are.
  i64 below = (i64)low - 1, bound = high, n_equal = -1;
  while (n_equal < 0 && below + 1 < bound) {
    const i64 middle = (below + bound) >> 1, above = n_above(keys, whole, (int32_t)middle);
    if (above == k) n_equal = 0;
    (above <= k ? bound : below) = middle;
  }
  if (n_equal < 0) n_equal = k - n_above(keys, whole, (int32_t)bound);
  for (i64 i = 0, found = 0; found < k; i++) {
    const bool equal = keys[i] == bound && n_equal > 0;
    chosen[found] = i;
    found += keys[i] > bound || equal;
    n_equal -= equal;
  }
}

// The pairs of a token and an expert: in the order of experts, of one expert in that of tokens.
struct Pairs {
  i64 n_pairs, n_tokens, n_experts;
  int32_t *tokens, *slots;     // of a pair: its token, and which of the choices it is
  int32_t *ends;               // of an expert: behind its last pair
  int32_t *offsets, *places;   // of token t: its pairs, places[offsets[t]] to places[offsets[t + 1]]

  // at: of 3 n_pairs + n_experts + n_tokens + 1
  Pairs(int32_t* at, i64 pairs, i64 tokens_, i64 experts)
      : n_pairs(pairs), n_tokens(tokens_), n_experts(experts), tokens(at), slots(at + pairs),
        ends(at + 3 * pairs), offsets(ends + experts), places(at + 2 * pairs) {}

  i64 begin(i64 expert) const { return expert ? ends[expert - 1] : 0; }

  // Of n_tokens rows of k experts.
  void sort_by_expert(const i64* experts, i64 k) const {
    for (i64 e = 0; e < n_experts; e++) ends[e] = 0;
    for (i64 s = 0; s < n_pairs; s++) ends[experts[s]]++;
    for (i64 e = 0, before = 0; e < n_experts; e++) {  // to where each begins, and by filling it to its end
      const i64 own = ends[e];
      ends[e] = (int32_t)before;
      before += own;
    }
    for (i64 s = 0; s < n_pairs; s++) {
      const int32_t p = ends[experts[s]]++;
      tokens[p] = (int32_t)(s / k);
      slots[p] = (int32_t)s;
      places[s] = p;
    }
    for (i64 t = 0; t <= n_tokens; t++) offsets[t] = (int32_t)(t * k);
  }

  // Of n_experts rows of k tokens.
  void sort_by_token(const i64* chosen, i64 k) const {
    for (i64 t = 0; t <= n_tokens; t++) offsets[t] = 0;
    for (i64 p = 0; p < n_pairs; p++) offsets[chosen[p]]++;
    for (i64 t = 0, before = 0; t <= n_tokens; t++) {
      const i64 own = offsets[t];
      offsets[t] = (int32_t)before;
      before += own;
    }
    for (i64 p = 0; p < n_pairs; p++) {
      places[offsets[chosen[p]]++] = (int32_t)p;
      tokens[p] = (int32_t)chosen[p];
      slots[p] = (int32_t)p;
    }
    for (i64 t = n_tokens; t > 0; t--) offsets[t] = offsets[t - 1];
    offsets[0] = 0;
    for (i64 e = 0; e < n_experts; e++) ends[e] = (int32_t)((e + 1) * k);
  }
};

struct Mixture {
  const float *x, *norm, *router, *w_in, *w_gate, *w_out;  // w_gate: null where there is none
  i64 n_tokens, d, n_experts, d_ff;
  i64 k;  // experts of a token, or where experts choose tokens of an expert
  bool experts_choose, softmax, beside;  // beside: base is another than x
  i64 activation;
  float eps, times;

  Mixture(const float* x_, const float* norm_, const float* router_, const float* in,
          const float* gate, const float* out, const i64* sizes, const float* numbers)
      : x(x_), norm(norm_), router(router_), w_in(in), w_gate(gate), w_out(out),
        n_tokens(sizes[0]), d(sizes[1]), n_experts(sizes[2]), d_ff(sizes[3]), k(sizes[4]),
        experts_choose(sizes[5]), softmax(sizes[6]), beside(sizes[7]), activation(sizes[8]),
        eps(numbers[0]), times(numbers[1]) {}
  i64 hidden() const { return up_to(d_ff, UNIT); }
  i64 logits() const { return up_to(n_experts, UNIT); }
  i64 n_pairs() const { return k * (experts_choose ? n_experts : n_tokens); }
  i64 n_tiles() const { return (n_tokens + TOKENS - 1) / TOKENS; }
  Pairs pairs(int32_t* at) const { return {at, n_pairs(), n_tokens, n_experts}; }
};

// ---------------------------------------------------------------------------------- forward

struct Choices {
  float *gates, *chosen;  // (n_tokens, n_experts); of each choice its gate, divided by their sum
  i64* index;             // (n_tokens, k) experts, or (n_experts, k) tokens
};

struct RoutingRoom {
  float *logits, *keys;
  int32_t* order;

  RoutingRoom(Arena& arena, const Mixture& s) {
    logits = arena.take<float>(TOKENS * s.logits());
    keys = arena.take<float>(most(s.n_tokens, s.n_experts));
    order = arena.take<int32_t>(up_to(most(s.n_tokens, s.n_experts), W));
  }
};

// Gates of m tokens from t, and where tokens choose, their experts. router: packed.
void route_tile(const Mixture& s, i64 t, i64 m, const float* normed, const float* router,
                const float* bias, const Choices& to, const RoutingRoom& room) {
  const i64 n = s.n_experts, ld = s.logits(), k = s.k;
  multiply<Float32, false>(m, ld, s.d, {normed, s.d, 1}, router, s.d, room.logits, ld);
  for (i64 i = t; i < t + m; i++) {
    float *row = room.logits + (i - t) * ld, *gates = to.gates + i * n;
    to_gates(row, n, s.softmax);
    memcpy(gates, row, n * sizeof(float));
    if (s.experts_choose) continue;
    for (i64 e = 0; e < n; e++) room.keys[e] = gates[e] + bias[e];
    largest(room.keys, n, k, room.order, to.index + i * k);
    float total = 0;
    for (i64 j = i * k; j < (i + 1) * k; j++) total += to.chosen[j] = gates[to.index[j]];
    for (i64 j = i * k; k > 1 && j < (i + 1) * k; j++) to.chosen[j] /= total;
  }
}

// The tokens that an expert chooses.
void choose_tokens(const Mixture& s, i64 e, const Choices& to, const RoutingRoom& room) {
  for (i64 t = 0; t < s.n_tokens; t++) room.keys[t] = to.gates[t * s.n_experts + e];
  i64* index = to.index + e * s.k;
  largest(room.keys, s.n_tokens, s.k, room.order, index);
  for (i64 j = 0; j < s.k; j++) to.chosen[e * s.k + j] = room.keys[index[j]];
}

// ---------------------------------------------------------------------------------- backward

// to += times * from, d wide.
inline void add_row(i64 d, float times, const float* from, float* to) {
  for (i64 c = 0; c < d; c += W) store(to + c, load(to + c) + times * load(from + c));
}

struct Saved {
  const float *normed, *inverse, *gates, *chosen, *h, *h_gate;
  const i64* index;
};

// The gradients of a token's logits, into those of what it has read, a row of d, with the router's
// product: from its choices' gates, which are in dchosen, and from all gates, in dgates or null.
struct LogitsBackward {
  const Mixture& s;
  const Pairs& pairs;
  const Saved& kept;
  const float* dgates;
  float* dchosen;

  // Whether logits of what is not chosen have a gradient. Where none has, dchosen gets the others'.
  bool dense() const { return s.softmax || dgates; }
  i64 expert(i64 slot) const { return s.experts_choose ? slot / s.k : kept.index[slot]; }

  template <class Run>
  void of_each(i64 t, Run run) const {
    for (i64 j = pairs.offsets[t]; j < pairs.offsets[t + 1]; j++) run(pairs.slots[pairs.places[j]]);
  }

  // Before the division by their sum.
  void undivide(i64 t) const {
    if (s.experts_choose || s.k == 1) return;
    float along = 0, total = 0;
    of_each(t, [&](i64 slot) {
      along += dchosen[slot] * kept.chosen[slot];
      total += kept.gates[t * s.n_experts + expert(slot)];
    });
    of_each(t, [&](i64 slot) { dchosen[slot] = (dchosen[slot] - along) / total; });
  }

  void fill_row(i64 t, float* row) const {
    const i64 n = s.n_experts;
    if (dgates)
      memcpy(row, dgates + t * n, n * sizeof(float));
    else
      fill(row, n, 0);
    of_each(t, [&](i64 slot) { row[expert(slot)] += dchosen[slot]; });
    from_gates(kept.gates + t * n, n, s.softmax, row);
  }

  void add_chosen(i64 t, float* back) const {
    of_each(t, [&](i64 slot) {
      const float gate = kept.gates[t * s.n_experts + expert(slot)];
      const float grad = dchosen[slot] *= gate * (1 - gate);
      add_row(s.d, grad, s.router + expert(slot) * s.d, back);
    });
  }
};

}  // namespace
