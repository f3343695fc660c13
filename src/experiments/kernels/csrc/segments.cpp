// Pairs sorted by the row they retrieve; sums over a row's pairs; and AdamW by these sums.
//
// A row's pairs are added in their order, whatever the number of threads: results are the same to
// the bit. A row with many pairs is cut into chunks of fixed length, whose sums are then added.
#include "strips.h"

namespace {

constexpr i64 CHUNK = 1024;  // pairs; a row with more is shared among threads
constexpr i64 AHEAD = 8;

inline i64 min64(i64 a, i64 b) { return a < b ? a : b; }

// Where thread i of n begins, if `total` things are shared evenly.
inline i64 share(i64 total, int i, int n) { return total * i / n; }

struct Pairs {
  const float* values;   // (T, d)
  const float* weights;  // (P)
  const int32_t* order;
  const int32_t* offsets;
  i64 n_columns, d;

  // 32 bits: a 64-bit division is several times slower.
  i64 token(i64 i) const { return (uint32_t)order[i] / (uint32_t)n_columns; }
};

// out (d) = sum of weighted values over pairs [begin, end); values up to ahead_to may be asked for.
// streams: past the caches, where out is whole vectors, aligned to one.
INLINE void add_pairs(const Pairs& s, i64 begin, i64 end, float* out, bool streams, i64 ahead_to) {
  in_strips(s.d, [&](auto strip) __attribute__((always_inline)) {
    typedef decltype(strip) S;
    typedef typename S::Vector V;
    const float* values = s.values + strip.from;
    V acc[S::COUNT];
#pragma GCC unroll 16
    for (int v = 0; v < S::COUNT; v++) acc[v] = V{};  // or they would be on the stack
    for (i64 i = begin; i < end; i++) {
      if (i + AHEAD < ahead_to) prefetch(values + s.token(i + AHEAD) * s.d, S::COUNT * sizeof(V));
      const float w = s.weights[s.order[i]];
      const float* row = values + s.token(i) * s.d;
#pragma GCC unroll 16
      for (int v = 0; v < S::COUNT; v++) acc[v] += w * load_as<V>(row + v * S::EACH);
    }
    float* to = out + strip.from;
    if constexpr (S::EACH == W)
      if (streams) {
#pragma GCC unroll 16
        for (int v = 0; v < S::COUNT; v++) stream(to + v * W, acc[v]);
        return;
      }
#pragma GCC unroll 16
    for (int v = 0; v < S::COUNT; v++) store_as(to + v * S::EACH, acc[v]);
  });
}

// The first row whose pairs and predecessors make up at least share i of n of all the work, a row
// costing as much as two pairs.
inline i64 first_row(const int32_t* offsets, i64 n_rows, int i, int n) {
  if (i == 0) return 0;
  if (i == n) return n_rows;
  const i64 target = share(offsets[n_rows] + 2 * n_rows, i, n);
  i64 low = 0, high = n_rows;
  while (low < high) {
    const i64 mid = (low + high) / 2;
    if (offsets[mid] + 2 * mid < target)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

inline bool is_long(const int32_t* offsets, i64 r) { return offsets[r + 1] - offsets[r] > CHUNK; }

// Calls visit.before(r), and visit.done(r, sum) with each row's sum, which is where visit.place(r)
// says, or in `scratch` where that is null. It has room for a row a thread, and for the sums of the
// longest row's chunks.
template <class Visit>
void for_each_row(const Pairs& s, i64 n_rows, float* scratch, int n_threads, const Visit& visit) {
#pragma omp parallel num_threads(n_threads)
  {
    const int me = thread_id(), n = team_size();
    const i64 end = first_row(s.offsets, n_rows, me + 1, n);
    const i64 last = s.offsets[end];
    float* mine = scratch + me * s.d;
    for (i64 r = first_row(s.offsets, n_rows, me, n); r < end; r++) {
      if (is_long(s.offsets, r)) continue;
      visit.before(r);
      float* place = visit.place(r);
      float* out = place ? place : mine;
      add_pairs(s, s.offsets[r], s.offsets[r + 1], out, place && visit.streams, last);
      visit.done(r, out);
    }
    stream_end();
  }
  for (i64 r = 0; r < n_rows; r++) {
    if (!is_long(s.offsets, r)) continue;
    const i64 begin = s.offsets[r], end = s.offsets[r + 1];
    const i64 n_chunks = (end - begin + CHUNK - 1) / CHUNK;
    float* chunks = scratch + n_threads * s.d;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (i64 c = 0; c < n_chunks; c++) {
      const i64 from = begin + c * CHUNK, to = min64(end, from + CHUNK);
      add_pairs(s, from, to, chunks + c * s.d, false, to);
    }
    visit.before(r);
    float* place = visit.place(r);
    float* out = place ? place : scratch;
    for (i64 i = 0; i < s.d; i++) {
      float acc = 0;
      for (i64 c = 0; c < n_chunks; c++) acc += chunks[c * s.d + i];
      out[i] = acc;
    }
    visit.done(r, out);
  }
}

// Writes sums to rows of a table of floats or bfloat16; `rows` says which, null for r itself.
template <class T>
struct Written {
  T* out;
  const i64* rows;
  i64 n_rows, n_table, d;
  bool streams;

  void before(i64) const {}
  i64 row_of(i64 r) const { return rows ? rows[r] : r; }
  float* place(i64 r) const {
    return sizeof(T) == sizeof(float) ? (float*)(out + row_of(r) * d) : nullptr;
  }

  void zero(i64 from, i64 to) const {
    T* p = out + from * d;
    const i64 n = (to - from) * d;
    if (!streams) {
      memset((void*)p, 0, n * sizeof(T));
      return;
    }
    float* f = (float*)p;  // whole vectors: `streams` says so
    const i64 m = n * sizeof(T) / 4;
    for (i64 i = 0; i < m; i += W) stream(f + i, vec{});
  }

  void done(i64 r, const float* sum) const {
    const i64 row = row_of(r);
    if (rows) {
      if (r == 0) zero(0, row);
      zero(row + 1, r + 1 < n_rows ? rows[r + 1] : n_table);
    }
    if (!place(r))
      for (i64 i = 0; i < d; i++) store1(out + row * d + i, sum[i]);
  }
};

template <class T>
void write_sums(const Pairs& s, const i64* rows, i64 n_rows, i64 n_table, T* out, float* scratch,
                int n_threads) {
  const bool streams =
      s.d * sizeof(T) % (4 * W) == 0 && (uintptr_t)out % (4 * W) == 0 && n_rows * s.d > (1 << 20);
  const Written<T> visit{out, rows, n_rows, n_table, s.d, streams};
  for_each_row(s, n_rows, scratch, n_threads, visit);
}

struct Step {
  float step_size, beta1, beta2, eps, decay, root_correction, rest1, rest2;  // rest: 1 - beta
  uint32_t step;
};

// torch_kernels.round_to's hash, to the bit.
inline uint32_t noise(uint64_t element, uint32_t step, uint32_t salt) {
  uint32_t h = (uint32_t)(element * 0x9E3779B1u + (uint64_t)step * 0x85EBCA6Bu);
  h += salt * 0x27D4EB2Fu;
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x046CA68Bu;
  return (h ^ (h >> 16)) & 0xFFFF;
}

inline void put(float* p, float f, uint64_t, uint32_t, uint32_t) { *p = f; }

inline void put(bf16* p, float f, uint64_t element, uint32_t step, uint32_t salt) {
  const uint32_t rounded = (bits_of(f) + noise(element, step, salt)) >> 16;
  p->bits = f != f ? 0x7fc0 : (uint16_t)rounded;  // noise would carry some NaNs to a number
}

template <class T, class M, class G>
inline void adamw_row(T* __restrict w, M* __restrict m, M* __restrict v, const G* __restrict grad,
                      i64 d, uint64_t element, const Step& s) {
  const float b1 = s.beta1, b2 = s.beta2, c1 = s.rest1, c2 = s.rest2;
  const float root = 1 / s.root_correction;
#pragma GCC ivdep
  for (i64 i = 0; i < d; i++) {
    const float g = load1(grad + i);
    const float mean = b1 * load1(m + i) + c1 * g;
    const float square = b2 * load1(v + i) + c2 * g * g;
    const float step = s.step_size * mean / (sqrtf(square) * root + s.eps);
    put(w + i, s.decay * load1(w + i) - step, element + i, s.step, 0);
    put(m + i, mean, element + i, s.step, 1);
    put(v + i, square, element + i, s.step, 2);
  }
}

template <class T, class M>
struct Table {
  T* w;
  M *m, *v;
  i64 d, first, width;  // its columns are those from `first` on of a table of this width
  Step s;

  void ask_for(i64 row) const {
    prefetch(w + row * d, d * sizeof(T));
    prefetch(m + row * d, d * sizeof(M));
    prefetch(v + row * d, d * sizeof(M));
  }

  template <class G>
  void update(i64 row, const G* grad) const {
    adamw_row(w + row * d, m + row * d, v + row * d, grad, d, (uint64_t)row * width + first, s);
  }
};

template <class T, class M, class G>
void adamw(const Table<T, M>& table, const i64* rows, const G* gradient, i64 n_rows,
           int n_threads) {
#pragma omp parallel num_threads(n_threads)
  {
    const i64 end = share(n_rows, thread_id() + 1, team_size());
    for (i64 r = share(n_rows, thread_id(), team_size()); r < end; r++) {
      if (r + 4 < end) {
        table.ask_for(rows[r + 4]);
        prefetch(gradient + (r + 4) * table.d, table.d * sizeof(G));
      }
      table.update(rows[r], gradient + r * table.d);
    }
  }
}

template <class T, class M>
struct Updated {
  Table<T, M> table;
  const i64* rows;
  i64 n_rows;
  static constexpr bool streams = false;

  static float* place(i64) { return nullptr; }
  void before(i64 r) const {
    if (r + 4 < n_rows) table.ask_for(rows[r + 4]);
  }
  void done(i64 r, const float* sum) const { table.update(rows[r], sum); }
};

template <class T, class M>
void step_table(const Table<T, M>& table, const i64* rows, i64 n_rows, const void* gradient,
                int gradient_is_bf16, const Pairs* pairs, float* scratch, int n_threads) {
  if (pairs)
    for_each_row(*pairs, n_rows, scratch, n_threads, Updated<T, M>{table, rows, n_rows});
  else if (gradient_is_bf16)
    adamw(table, rows, (const bf16*)gradient, n_rows, n_threads);
  else
    adamw(table, rows, (const float*)gradient, n_rows, n_threads);
}

}  // namespace

// counts: (n_table + 1) of scratch. Writes rows, offsets (of up to min(P, n_table) and one more)
// and order, and to n_found the number of distinct rows.
EXPORT(sort)(const i64* idx, i64 n_pairs, i64 n_table, int32_t* counts, i64* rows,
             int32_t* offsets, int32_t* order, i64* n_found, i64 n_threads) {
  i64 pairs_of[64], rows_of[64];
  if (n_threads > 8) n_threads = 8;  // each reads all of idx
#pragma omp parallel num_threads(n_threads)
  {
    const int me = thread_id(), n = team_size();
    const i64 low = share(n_table, me, n), high = share(n_table, me + 1, n);
    const uint64_t width = high - low;
    int32_t* mine = counts + low;
    memset(mine, 0, width * 4);
    for (i64 p = 0; p < n_pairs; p++)
      if ((uint64_t)(idx[p] - low) < width) mine[idx[p] - low]++;
    i64 n_mine = 0, distinct = 0;
    for (uint64_t i = 0; i < width; i++) {
      n_mine += mine[i];
      distinct += mine[i] != 0;
    }
    pairs_of[me] = n_mine;
    rows_of[me] = distinct;
#pragma omp barrier
    i64 position = 0, r = 0;
    for (int i = 0; i < me; i++) {
      position += pairs_of[i];
      r += rows_of[i];
    }
    if (me == n - 1) {
      *n_found = r + distinct;
      offsets[r + distinct] = (int32_t)n_pairs;
    }
    for (uint64_t i = 0; i < width; i++) {
      const int32_t count = mine[i];
      if (!count) continue;
      rows[r] = low + i;
      offsets[r++] = (int32_t)position;
      mine[i] = (int32_t)position;
      position += count;
    }
    for (i64 p = 0; p < n_pairs; p++)
      if ((uint64_t)(idx[p] - low) < width) order[mine[idx[p] - low]++] = (int32_t)p;
  }
}

// rows null: out is (R, d); else it is the table, zero but for these rows.
// scratch: (n_threads + ceil(P / CHUNK) + 1) * d floats.
EXPORT(sums)(const float* values, const float* weights, const int32_t* order,
             const int32_t* offsets, i64 n_columns, i64 d, const i64* rows, i64 n_rows,
             i64 n_table, void* out, i64 is_bf16, float* scratch, i64 n_threads) {
  const Pairs s{values, weights, order, offsets, n_columns, d};
  if (is_bf16)
    write_sums(s, rows, n_rows, n_table, (bf16*)out, scratch, n_threads);
  else
    write_sums(s, rows, n_rows, n_table, (float*)out, scratch, n_threads);
}

// By `gradient` (R, d), or by the sums of the pairs where it is null. first, width: of Table.
EXPORT(adamw)(void* table, i64 is_bf16, void* mean, void* square, i64 moments_are_bf16, i64 d,
              i64 first, i64 width, const i64* rows, i64 n_rows, const void* gradient, i64 gradient_is_bf16,
              const float* values, const float* weights, const int32_t* order,
              const int32_t* offsets, i64 n_columns, float* scratch, const float* hyper,
              i64 step, i64 n_threads) {
  const Step s{hyper[0], hyper[1], hyper[2], hyper[3],      hyper[4],
               hyper[5], hyper[6], hyper[7], (uint32_t)step};
  const Pairs some{values, weights, order, offsets, n_columns, d};
  const Pairs* pairs = gradient ? nullptr : &some;
#define STEP(T, M)                                                                             \
  step_table(Table<T, M>{(T*)table, (M*)mean, (M*)square, d, first, width, s}, rows, n_rows,   \
             gradient, gradient_is_bf16, pairs, scratch, n_threads)
  if (is_bf16 && moments_are_bf16)
    STEP(bf16, bf16);
  else if (is_bf16)
    STEP(bf16, float);
  else if (moments_are_bf16)
    STEP(float, bf16);
  else
    STEP(float, float);
#undef STEP
}
