// Routing of a mixture of experts: gates, what is chosen, and the order of the pairs (token, expert).
#pragma once
#include "activations.h"
#include "products.h"

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

}  // namespace
