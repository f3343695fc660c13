// The top_k product keys of each query: scores of the halves, the best of each, of their pairs.
//
// A score is one sum over a key's columns in their order, whichever thread or tile it is in: the same
// to the bit for any number of threads, which a BLAS does not promise.
//
// Where the processor multiplies bfloat16, scores are screened in it: a score can't be off by more
// than 2^-8 |q| |key| (Cauchy-Schwarz; 2^-9 for either's rounding), so whatever is within twice
// that of a lower bound of the k-th is scored again in float32, and the result is that of float32.
// These products take what is below FLT_MIN for zero, arguments and sums: for that a floor is added.
#include "scores.h"

namespace {

constexpr i64 TILE = 48;  // queries scored together; their scores stay in the second-level cache

constexpr i64 COUNTED = 128;  // values that are ranked by counting

#if defined(__AVX512F__)
// rank() for n in (16 (B - 1), 16 B]: each value counts those above it, which is its place.
template <int B>
inline void rank_by_counting(const float* values, i64 n, int32_t* out) {
  __m512 v[B];
#pragma GCC unroll 8
  for (int b = 0; b < B; b++) v[b] = _mm512_loadu_ps(values + 16 * b);
#pragma GCC unroll 8
  for (int mine = 0; mine < B; mine++) {
    const i64 end = min64(16, n - 16 * mine);
    for (i64 i = 0; i < end; i++) {
      const __m512 me = _mm512_set1_ps(values[16 * mine + i]);
      // of equal ones, those before me are above me
      uint32_t mask = _mm512_cmp_ps_mask(v[mine], me, _CMP_EQ_OQ) & ((1u << i) - 1);
      mask |= _mm512_cmp_ps_mask(v[mine], me, _CMP_GT_OQ);
      i64 above = __builtin_popcount(mask);
#pragma GCC unroll 8
      for (int b = 0; b < mine; b++)
        above += __builtin_popcount(_mm512_cmp_ps_mask(v[b], me, _CMP_GE_OQ));
#pragma GCC unroll 8
      for (int b = mine + 1; b < B; b++)
        above += __builtin_popcount(_mm512_cmp_ps_mask(v[b], me, _CMP_GT_OQ));
      out[above] = (int32_t)(16 * mine + i);  // without a branch that nobody can predict
    }
  }
}

inline void rank_by_counting(float* values, i64 n, int32_t* out) {
  for (i64 i = n; i < up(n, 16); i++) values[i] = -INFINITY;
  switch (up(n, 16) / 16) {
    case 1: return rank_by_counting<1>(values, n, out);
    case 2: return rank_by_counting<2>(values, n, out);
    case 3: return rank_by_counting<3>(values, n, out);
    case 4: return rank_by_counting<4>(values, n, out);
    case 5: return rank_by_counting<5>(values, n, out);
    case 6: return rank_by_counting<6>(values, n, out);
    case 7: return rank_by_counting<7>(values, n, out);
    case 8: return rank_by_counting<8>(values, n, out);
  }
}
#else
typedef int32_t ivec __attribute__((vector_size(4 * W)));
const int32_t LANES[8] = {0, 1, 2, 3, 4, 5, 6, 7};

// How many of n values are above each of B vectors of them, the first of which is values[from]. Of
// equal ones the earlier is above the later.
template <int B>
inline void count_above(const float* values, i64 from, i64 n, int32_t* out) {
  vec own[B];
  ivec above[B] = {}, place[B], lanes;
  memcpy(&lanes, LANES, sizeof lanes);
#pragma GCC unroll 4
  for (int b = 0; b < B; b++) {
    own[b] = load(values + from + b * W);
    place[b] = lanes + (int32_t)(from + b * W);
  }
  i64 j = 0;
  for (; j < from; j++) {
    const vec other = splat(values[j]);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++) above[b] -= (ivec)(other >= own[b]);
  }
  for (; j < min64(n, from + B * W); j++) {
    const vec other = splat(values[j]);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++)
      above[b] -= (ivec)(other > own[b]) | ((ivec)(other == own[b]) & (place[b] > (int32_t)j));
  }
  for (; j < n; j++) {
    const vec other = splat(values[j]);
#pragma GCC unroll 4
    for (int b = 0; b < B; b++) above[b] -= (ivec)(other > own[b]);
  }
  memcpy(out, above, sizeof above);
}

// rank() for n up to COUNTED: what is above a value says its place, without a branch to predict.
inline void rank_by_counting(float* values, i64 n, int32_t* out) {
  int32_t above[COUNTED];
  const i64 padded = up(n, 16);
  for (i64 i = n; i < padded; i++) values[i] = -INFINITY;
  i64 from = 0;
  for (; from + 4 * W <= padded; from += 4 * W) count_above<4>(values, from, n, above + from);
  for (; from < padded; from += 2 * W) count_above<2>(values, from, n, above + from);
  for (i64 i = 0; i < n; i++) out[above[i]] = (int32_t)i;
}
#endif

// out[0 .. k): positions of the k largest of n values, largest first, the first of equal ones first.
// values has room to be padded to a multiple of 16, out for n. All outputs are in range, even if values are NaN.
inline void rank(float* values, i64 n, i64 k, int32_t* out) {
  for (i64 i = 0; i < k; i++) out[i] = (int32_t)i;
  if (n <= COUNTED) return rank_by_counting(values, n, out);
  // by insertion into the sorted best so far
  i64 kept = 0;
  for (i64 i = 0; i < n; i++) {
    if (kept == k && !(values[i] > values[out[k - 1]])) continue;
    i64 at = kept < k ? kept++ : k - 1;
    for (; at > 0 && values[i] > values[out[at - 1]]; at--) out[at] = out[at - 1];
    out[at] = (int32_t)i;
  }
}

inline vec larger(vec a, vec b) { return a > b ? a : b; }

// The k-th largest of maxima over disjoint groups of scores, one a lane of M vectors.
template <int M>
inline float bound_of_groups(const float* scores, i64 n, i64 k) {
  vec most[M];
  for (int v = 0; v < M; v++) most[v] = load(scores + v * W);
  for (i64 i = M * W; i + M * W <= n; i += M * W)
#pragma GCC unroll 4
    for (int v = 0; v < M; v++) most[v] = larger(load(scores + i + v * W), most[v]);
  float maxima[M * W];
  int32_t order[M * W];
  for (int v = 0; v < M; v++) store(maxima + v * W, most[v]);
  rank(maxima, M * W, k, order);
  return maxima[order[k - 1]];
}

// A lower bound of the k-th largest of n scores; -inf where there are too few groups for one.
inline float lower_bound(const float* scores, i64 n, i64 k) {
  if (k <= W && n >= 2 * W) return bound_of_groups<2>(scores, n, k);
  if (k <= 4 * W && n >= 4 * W) return bound_of_groups<4>(scores, n, k);
  return -INFINITY;
}

// Positions of the scores that are at least `threshold`; those after `room` are dropped and counted.
inline i64 survivors(const float* scores, i64 n, float threshold, int32_t* at, i64 room) {
  i64 found = 0;
#if defined(__AVX512F__)
  const __m512 bound = _mm512_set1_ps(threshold);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (i64 i = 0; i < n; i += 16) {
    const __mmask16 inside = n - i < 16 ? (1u << (n - i)) - 1 : 0xffff;
    const __m512 some = _mm512_maskz_loadu_ps(inside, scores + i);
    const __mmask16 mask = _mm512_mask_cmp_ps_mask(inside, some, bound, _CMP_GE_OQ);
    const __m512i positions = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)i));
    // at the end of `at` there is room for one vector more
    _mm512_storeu_si512(at + (found < room ? found : room),
                        _mm512_maskz_compress_epi32(mask, positions));
    found += __builtin_popcount(mask);
  }
#else
  for (i64 i = 0; i < n; i++) {  // without a branch that nobody can predict
    at[found < room ? found : room] = (int32_t)i;
    found += scores[i] >= threshold;
  }
#endif
  return found;
}

// out[i] = query . keys[at[i]]. In fours, for the sums over lanes take longer than the products.
inline void dots(const float* query, const float* keys, const int32_t* at, i64 n, i64 width,
                 float* out) {
  i64 i = 0;
#if defined(__AVX512F__)
  for (; i + 4 <= n && width % 16 == 0; i += 4) {
    const float* key[4];
    __m512 acc[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
      key[r] = keys + at[i + r] * width;
      acc[r] = _mm512_setzero_ps();
    }
    for (i64 c = 0; c < width; c += 16) {
      const __m512 q = _mm512_loadu_ps(query + c);
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) acc[r] = _mm512_fmadd_ps(q, _mm512_loadu_ps(key[r] + c), acc[r]);
    }
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(acc[0], acc[1]),
                                    _mm512_unpackhi_ps(acc[0], acc[1]));  // a b a b, four times
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(acc[2], acc[3]),
                                    _mm512_unpackhi_ps(acc[2], acc[3]));
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out + i, _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
  }
#endif
  for (; i < n; i++) out[i] = dot_row(query, keys + at[i] * width, width);
}

constexpr i64 ROOM = 256;  // survivors
constexpr i64 FEW = 64;    // scores, which are ranked without a bound first

// The k best of n scores. Exact scores where `query` is null, else screened ones, and those of the
// survivors are computed again from query (width), keys (n, width) and bias (n, or null). `slack`:
// how far below the bound a winner's screened score can be. `scores` and `copy` have room for n scores
// and 16 more.
inline void best_of(float* scores, i64 n, i64 k, float slack, const float* query,
                    const float* keys, const float* bias, i64 width, float* copy, float* best,
                    int32_t* where) {
  int32_t at[ROOM + W], order[ROOM + W];
  float exact[ROOM + W];
  if (!query && n <= FEW) {
    rank(scores, n, k, order);
    for (i64 i = 0; i < k; i++) {
      where[i] = order[i];
      best[i] = scores[order[i]];
    }
    return;
  }
  i64 found = k <= ROOM ? survivors(scores, n, lower_bound(scores, n, k) - slack, at, ROOM) : n + 1;
  if (found <= ROOM && found >= k) {
    if (query)
      for (i64 i = 0; i < found; i++) prefetch(keys + at[i] * width, width * 4);
    if (query)
      dots(query, keys, at, found, width, exact);
    if (query && bias)
      for (i64 i = 0; i < found; i++) exact[i] += bias[at[i]];
    if (!query)
      for (i64 i = 0; i < found; i++) exact[i] = scores[at[i]];
    rank(exact, found, k, order);
    for (i64 i = 0; i < k; i++) {
      best[i] = exact[order[i]];
      where[i] = at[order[i]];
    }
    return;
  }
  // many ties, NaN, or a large k: all scores, exactly
  for (i64 i = 0; i < n; i++) {
    float s = scores[i];
    if (query) s = dot_row(query, keys + i * width, width) + (bias ? bias[i] : 0);
    copy[i] = s;
  }
  int32_t* places = n <= ROOM ? order : where;  // rank may write n of them, and where has room for k
  rank(copy, n, k, places);
  for (i64 i = 0; i < k; i++) {
    where[i] = places[i];
    best[i] = copy[places[i]];
  }
}

struct Candidates {
  const int32_t *left, *right;  // ranks in the two halves, with a vector of zeros behind
  i64 n, k;                     // pairs, top_k
  i64 half[2];                  // how many of each half
};

// best, where: those of the first half, then of the second; sums, order: room for n and a vector.
inline void best_pairs(const Candidates& c, const float* best, const int32_t* where, float* sums,
                       int32_t* order, float* scores, i64* first, i64* second) {
#if defined(__AVX512F__)
  if (c.half[0] <= 16 && c.half[1] <= 16) {
    const __m512 a = _mm512_maskz_loadu_ps((1u << c.half[0]) - 1, best);
    const __m512 b = _mm512_maskz_loadu_ps((1u << c.half[1]) - 1, best + c.half[0]);
    for (i64 i = 0; i < c.n; i += 16)  // left and right have room for whole vectors
      _mm512_storeu_ps(sums + i,
                       _mm512_add_ps(_mm512_permutexvar_ps(_mm512_loadu_si512(c.left + i), a),
                                     _mm512_permutexvar_ps(_mm512_loadu_si512(c.right + i), b)));
  } else
#endif
    for (i64 i = 0; i < c.n; i++) sums[i] = best[c.left[i]] + best[c.half[0] + c.right[i]];
  rank(sums, c.n, c.k, order);
  for (i64 i = 0; i < c.k; i++) {
    const i64 p = order[i];
    scores[i] = sums[p];
    first[i] = where[c.left[p]];
    second[i] = where[c.half[0] + c.right[p]];
  }
}

}  // namespace

// queries (T, H, 2, width), keys (G, n_first + n_second, width), G = H or 1, bias (n_first) or null;
// packed: room for them as pack() has them, each set padded to 64 keys, of width + 1 floats; longest:
// 2 G floats. room: a thread's bytes.
EXPORT(search)(const float* queries, const float* keys, const float* bias, i64 n_tokens, i64 n_heads,
               i64 n_groups, i64 n_first, i64 n_second, i64 width, Packed* packed, float* longest,
               const int32_t* left, const int32_t* right, i64 n_pairs, i64 top_k, char* room,
               i64 each, float* best_scores, i64* first, i64* second, i64 n_threads) {
  const i64 n_sub[2] = {n_first, n_second};
  const i64 padded[2] = {up(n_first, BLOCK), up(n_second, BLOCK)};
  const i64 stride = (padded[0] > padded[1] ? padded[0] : padded[1]) + 16;  // rows 4 KB apart would
  const i64 columns = columns_of(width);                            // share a few sets of the cache
  const Candidates candidates{
      left, right, n_pairs, top_k, {min64(top_k, n_first), min64(top_k, n_second)}};
  const i64* half = candidates.half;
  const i64 both = half[0] + half[1];
  const i64 n_tiles = (n_tokens + TILE - 1) / TILE;
  const auto keys_of = [&](i64 g) {
    return keys + (g / 2 * (n_first + n_second) + g % 2 * n_first) * width;
  };
  const auto packed_of = [&](i64 g) {
    return packed + (g / 2 * (padded[0] + padded[1]) + g % 2 * padded[0]) * columns;
  };
#pragma omp parallel num_threads(n_threads)
  {
#pragma omp for schedule(static)
    for (i64 g = 0; g < 2 * n_groups; g++) {  // |key|, the largest of each set
      const i64 n = n_sub[g % 2];
      pack(keys_of(g), n, width, packed_of(g));
      longest[g] = 0;
      for (i64 i = 0; SCREENS && i < n; i++) {
        const float one = length(keys_of(g) + i * width, width);
        longest[g] = one > longest[g] ? one : longest[g];
      }
    }
    char* mine = room + thread_id() * each;
    float* scores = (float*)mine;  // TILE x stride
    float* best = scores + TILE * stride;  // TILE x both
    int32_t* where = (int32_t*)(best + TILE * both);
    float* sums = (float*)(where + TILE * both);
    int32_t* order = (int32_t*)(sums + n_pairs + 16);
    float* copy = (float*)(order + n_pairs + 16);
#if defined(__AVX512BF16__)
    uint32_t* shortened = (uint32_t*)(copy + (n_first > n_second ? n_first : n_second) + 16);
#endif
#pragma omp for schedule(dynamic)
    for (i64 task = 0; task < n_heads * n_tiles; task++) {
      const i64 h = task / n_tiles, t0 = task % n_tiles * TILE;  // a head's tiles in a row: its
      const i64 n = min64(TILE, n_tokens - t0);                   // keys stay in the cache
      for (int a = 0; a < 2; a++) {
        const i64 g = (n_groups > 1 ? h : 0) * 2 + a, between = n_heads * 2 * width;
        const float* of_tile = queries + ((t0 * n_heads + h) * 2 + a) * width;
        const float* added = a == 0 ? bias : nullptr;
#if defined(__AVX512BF16__)
        for (i64 t = 0; t < n; t++) {
          if (a == 0 && t + 8 < n) prefetch(of_tile + (t + 8) * between, 2 * width * 4);  // both halves
          shorten(of_tile + t * between, width, (uint16_t*)(shortened + t * columns / 2));
        }
        const Query* from = shortened;
        const i64 apart = columns / 2;
#else
        const Query* from = of_tile;
        const i64 apart = between;
#endif
        for (i64 block = 0; block < padded[a]; block += BLOCK)
          score_queries(n, from, apart, packed_of(g) + block * columns, width, scores + block, stride);
        for (i64 t = 0; t < n; t++) {
          const float* q = SCREENS ? of_tile + t * between : nullptr;
          const float slack = SCREENS ? slack_of(length(q, width), longest[g], width) : 0;
          float* of_query = scores + t * stride;
          if (added)
            for (i64 i = 0; i < n_sub[a]; i++) of_query[i] += added[i];
          best_of(of_query, n_sub[a], half[a], slack, q, keys_of(g), added, width, copy,
                  best + t * both + a * half[0], where + t * both + a * half[0]);
        }
      }
      for (i64 t = 0; t < n; t++) {
        const i64 at = ((t0 + t) * n_heads + h) * top_k;
        best_pairs(candidates, best + t * both, where + t * both, sums, order, best_scores + at,
                   first + at, second + at);
      }
    }
  }
}
