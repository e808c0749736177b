// Sampling from an allowed range on the CPU.
//
// Only the head's rows in [lo, hi) are multiplied, by dot products whose order of summation is fixed, so that a row's
// logits are the same bits in any batch. A draw is the argmax of logit / temperature + Gumbel noise, exact in fp64; the
// noise of an id costs two logarithms, so ids are first compared in fp32 by the bound noise <= -log(u), and only the
// few that may still win are computed. top-p sums integer masses (exp * 2^40): exact, and free of the order of
// addition.
#include "sampling.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <array>
#include <numeric>

#include "sampling_parts.h"

namespace mmpt {
namespace {

constexpr int64_t kWorkPerThread = 1 << 17;  // multiplications worth waking a thread for
constexpr int kBuckets = 1024;               // of top-p, 32 a nat below the largest logit
constexpr double kMassUnit = double(int64_t(1) << 40);

template <typename T>
class Values {  // the rows' values of one parameter
 public:
  Values(const char* name, const PerRow<T>& of, int64_t batch) : value_(of.value) {
    if (!of.rows) return;
    TORCH_CHECK_VALUE(of.rows->dim() == 0 || (of.rows->dim() == 1 && of.rows->size(0) == batch), name, " is ",
                      of.rows->sizes(), ", expected a number or [", batch, "]");
    tensor_ = of.rows->to(sizeof(T) == 8 && std::is_floating_point_v<T> ? at::kDouble : at::kLong).contiguous();
    data_ = tensor_.const_data_ptr<T>();
    step_ = tensor_.dim();
  }
  T operator[](int64_t row) const { return data_ ? data_[row * step_] : value_; }

 private:
  T value_;
  at::Tensor tensor_;
  const T* data_ = nullptr;
  int64_t step_ = 0;
};

}  // namespace

std::vector<Row> checked_rows(const Sampling& how, int64_t batch, int64_t vocabulary, int64_t max_range) {
  const Values<int64_t> lo("lo", how.lo, batch), hi("hi", how.hi, batch), extra("extra_id", how.extra, batch),
      top_k("top_k", how.top_k, batch), seed("seed", how.seed, batch), offset("offset", how.offset, batch);
  const Values<double> temperature("temperature", how.temperature, batch), top_p("top_p", how.top_p, batch);
  std::vector<Row> rows(batch);
  for (int64_t i = 0; i < batch; ++i) {
    Row& r = rows[i];
    r = {lo[i], hi[i], extra[i], top_k[i], seed[i], offset[i], temperature[i], top_p[i], 0};
    TORCH_CHECK_VALUE(0 <= r.lo && r.lo < r.hi && r.hi <= vocabulary && r.extra < vocabulary, "row ", i,
                      " allows ids [", r.lo, ", ", r.hi, ") and ", r.extra, ": expected a non-empty range within [0, ",
                      vocabulary, ")");
    TORCH_CHECK_VALUE(max_range < 0 || r.hi - r.lo <= max_range, "row ", i, " allows ", r.hi - r.lo,
                      " ids, max_range is ", max_range);
    check_parameters(r.temperature, r.top_k, r.top_p, "of row " + std::to_string(i));
    r.side = r.extra >= r.hi ? 1 : r.extra >= 0 && r.extra < r.lo ? -1 : 0;
  }
  return rows;
}

void best_first(std::vector<int64_t>& order, int64_t count, const std::vector<double>& scaled) {
  const auto better = [&](int64_t a, int64_t b) { return scaled[a] != scaled[b] ? scaled[a] > scaled[b] : a < b; };
  if (count < int64_t(order.size())) {
    std::nth_element(order.begin(), order.begin() + count, order.end(), better);
    order.resize(count);
  }
}

int64_t draw_from(const std::vector<int64_t>& columns, const std::vector<double>& scaled, const uint32_t* word) {
  double best = -std::numeric_limits<double>::infinity();
  int64_t at = 0;
  for (const int64_t c : columns) {
    const double score = scaled[c] + gumbel(word[c]);
    if (score > best || (score == best && c < at)) best = score, at = c;
  }
  return at;
}

namespace {

// The shortest prefix of the columns, best first, whose mass reaches share `p` of the mass of all.
void nucleus(std::vector<int64_t>& order, double p, const std::vector<double>& scaled) {
  double top = scaled[order[0]];
  for (const int64_t c : order) top = std::max(top, scaled[c]);
  if (std::isinf(top)) return best_first(order, 1, scaled);
  std::vector<uint64_t> mass(order.size());
  std::array<uint64_t, kBuckets> bucket_mass{};
  const auto bucket = [&](int64_t c) { return int(std::min(double(kBuckets - 1), (top - scaled[c]) * 32)); };
  uint64_t total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    mass[i] = uint64_t(std::exp(scaled[order[i]] - top) * kMassUnit + 0.5);
    bucket_mass[bucket(order[i])] += mass[i];
    total += mass[i];
  }
  const double wanted = p * double(total);
  uint64_t before = 0;
  int crossing = 0;
  while (crossing < kBuckets - 1 && double(before + bucket_mass[crossing]) < wanted) before += bucket_mass[crossing++];
  std::vector<int64_t> kept;
  std::vector<size_t> edge;
  for (size_t i = 0; i < order.size(); ++i) {
    const int at = bucket(order[i]);
    if (at < crossing) kept.push_back(order[i]);
    if (at == crossing) edge.push_back(i);
  }
  std::sort(edge.begin(), edge.end(), [&](size_t a, size_t b) {
    const double x = scaled[order[a]], y = scaled[order[b]];
    return x != y ? x > y : order[a] < order[b];
  });
  for (const size_t i : edge) {
    if (double(before) >= wanted) break;
    kept.push_back(order[i]);
    before += mass[i];
  }
  order = std::move(kept);
}

// Words of the row's columns; the array may be read up to a multiple of kChunk.
std::vector<uint32_t> noise_words(const Row& row, const uint32_t*& begin) {
  const int64_t skip = row.lo % 4, range = row.hi - row.lo, whole = (skip + range + 3) / 4 * 4;
  std::vector<uint32_t> out(1 + whole + kChunk);
  const uint64_t seed = uint64_t(row.seed), offset = uint64_t(row.offset);
  instruction_set().sampling->words(seed, offset, uint64_t(row.lo - skip), whole, out.data() + 1);
  uint32_t* first = out.data() + 1 + skip;
  if (row.side > 0) first[range] = philox_word(seed, offset, uint64_t(row.extra));
  if (row.side < 0) *--first = philox_word(seed, offset, uint64_t(row.extra));
  begin = first;
  return out;
}

// As draw_from over all columns, computing only those whose bound reaches the best so far.
int64_t draw_pruned(const float* logit, int64_t count, double temperature, const uint32_t* word) {
  const auto* kernels = instruction_set().sampling;
  double best = -std::numeric_limits<double>::infinity();
  int64_t at = 0;
  for (int64_t c = 0; c < count; c += kChunk) {
    const int64_t n = std::min(kChunk, count - c);
    uint64_t mask = kernels->contenders(logit + c, word + c, kChunk, float(1 / temperature), float(best));
    if (n < kChunk) mask &= (uint64_t(1) << n) - 1;
    for (; mask; mask &= mask - 1) {
      const int64_t candidate = c + __builtin_ctzll(mask);
      const double score = double(logit[candidate]) / temperature + gumbel(word[candidate]);
      if (score > best) best = score, at = candidate;
    }
  }
  return at;
}

// The id of one row; logit [count], readable up to a multiple of kChunk. -1 where a logit is NaN.
template <typename T>
int64_t choose(const Row& row, const T* logit) {
  const int64_t count = row.count();
  T top = logit[0];
  int64_t greedy = 0;
  bool nan = false;
  for (int64_t c = 0; c < count; ++c) {
    nan |= std::isnan(logit[c]);
    if (logit[c] > top) top = logit[c], greedy = c;
  }
  if (nan) return -1;
  if (row.temperature == 0) return row.id(greedy);
  const uint32_t* word;
  const auto words = noise_words(row, word);
  const bool filters = (row.top_k > 0 && row.top_k < count) || row.top_p < 1;
  if constexpr (sizeof(T) == 4) {
    T bottom = top;
    for (int64_t c = 0; c < count; ++c) bottom = logit[c] < bottom && std::isfinite(logit[c]) ? logit[c] : bottom;
    const double reach = std::max(std::abs(double(top)), std::abs(double(bottom))) / row.temperature;
    if (!filters && reach < 1e30) return row.id(draw_pruned(logit, count, row.temperature, word));
  }
  std::vector<double> scaled(count);
  std::vector<int64_t> columns;
  for (int64_t c = 0; c < count; ++c) {
    scaled[c] = double(logit[c]) / row.temperature;
    if (scaled[c] > -std::numeric_limits<double>::infinity()) columns.push_back(c);
  }
  if (columns.empty()) return row.id(0);
  if (row.top_k > 0) best_first(columns, row.top_k, scaled);
  if (row.top_p < 1) nucleus(columns, row.top_p, scaled);
  return row.id(draw_from(columns, scaled, word));
}

template <typename T>
std::vector<int64_t> choose_all(const std::vector<Row>& rows, const std::vector<const T*>& logit) {
  std::vector<int64_t> ids(rows.size());
  at::parallel_for(0, int64_t(rows.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) ids[i] = choose(rows[i], logit[i]);
  });
  return ids;
}

}  // namespace

at::Tensor checked_ids(const std::vector<int64_t>& ids) {
  for (size_t i = 0; i < ids.size(); ++i) TORCH_CHECK_VALUE(ids[i] >= 0, "row ", i, " has a NaN logit");
  at::Tensor out = at::empty({int64_t(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

template <typename T>
std::vector<int64_t> draw_whole(const std::vector<Row>& rows, const T* x, int64_t k, const HeadRows& head,
                                double softcap) {
  const int64_t batch = int64_t(rows.size());
  std::vector<int64_t> order(batch);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::pair(rows[a].lo, rows[a].hi) < std::pair(rows[b].lo, rows[b].hi);
  });
  std::vector<const T*> logit(batch);
  std::vector<std::vector<T>> storage;
  for (int64_t begin = 0, end; begin < batch; begin = end) {
    const int64_t lo = rows[order[begin]].lo, hi = rows[order[begin]].hi;
    for (end = begin; end < batch && rows[order[end]].lo == lo && rows[order[end]].hi == hi;) ++end;
    const int64_t members = end - begin, range = hi - lo, ld = range + 2 + kChunk;
    storage.emplace_back(members * ld, T(0));
    std::vector<T> together;  // the members' hidden rows, side by side
    const T* source = x + order[begin] * k;
    if (order[end - 1] - order[begin] != members - 1) {
      together.resize(members * k);
      for (int64_t i = 0; i < members; ++i) std::copy_n(x + order[begin + i] * k, k, together.data() + i * k);
      source = together.data();
    }
    T* out = storage.back().data() + 1;
    const int64_t grain = std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, members * k));
    at::parallel_for(0, range, grain, [&](int64_t from, int64_t to) {
      logits_of<T>(head, lo + from, to - from, source, k, members, out + from, ld);
    });
    for (int64_t i = 0; i < members; ++i) {
      const Row& row = rows[order[begin + i]];
      T* mine = out + i * ld;
      if (row.side) logits_of<T>(head, row.extra, 1, source + i * k, k, 1, row.side < 0 ? mine - 1 : mine + range, 1);
      mine -= row.side < 0;
      for (int64_t c = 0; c < row.count() && softcap > 0; ++c) mine[c] = std::tanh(mine[c] / T(softcap)) * T(softcap);
      logit[order[begin + i]] = mine;
    }
  }
  return choose_all(rows, logit);
}

template std::vector<int64_t> draw_whole(const std::vector<Row>&, const float*, int64_t, const HeadRows&, double);

namespace {

template <typename T>
at::Tensor sample_range(const at::Tensor& hidden, const HeadRows& head, double softcap, const Sampling& how,
                        int64_t max_range) {
  const std::vector<Row> rows = checked_rows(how, hidden.size(0), head.size(), max_range);
  const at::Tensor x = hidden.to(sizeof(T) == 8 ? at::kDouble : at::kFloat).contiguous();
  return checked_ids(draw_whole<T>(rows, x.const_data_ptr<T>(), x.size(1), head, softcap));
}

template <typename T>
at::Tensor sample_logits(const at::Tensor& logits, const Sampling& how, int64_t max_range) {
  const int64_t batch = logits.size(0);
  const std::vector<Row> rows = checked_rows(how, batch, logits.size(1), max_range);
  std::vector<std::vector<T>> storage(batch);
  std::vector<const T*> logit(batch);
  const int64_t row_step = logits.stride(0), step = logits.stride(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, logits.scalar_type(), "sample_logits", [&] {
    const scalar_t* data = logits.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < batch; ++i) {
      storage[i].resize(rows[i].count() + kChunk);
      for (int64_t c = 0; c < rows[i].count(); ++c)
        storage[i][c] = static_cast<T>(data[i * row_step + rows[i].id(c) * step]);
      logit[i] = storage[i].data();
    }
  });
  return checked_ids(choose_all(rows, logit));
}

}  // namespace

at::Tensor sample_range_cpu(const at::Tensor& hidden, const at::Tensor& weight_base,
                            const std::optional<at::Tensor>& weight_new, double softcap, const Sampling& how,
                            int64_t max_range) {
  const HeadRows head{weight_base, weight_new};
  return hidden.scalar_type() == at::kDouble ? sample_range<double>(hidden, head, softcap, how, max_range)
                                             : sample_range<float>(hidden, head, softcap, how, max_range);
}

at::Tensor sample_logits_cpu(const at::Tensor& logits, const Sampling& how, int64_t max_range) {
  return logits.scalar_type() == at::kDouble ? sample_logits<double>(logits, how, max_range)
                                             : sample_logits<float>(logits, how, max_range);
}

}  // namespace mmpt
