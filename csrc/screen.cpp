// The screen of screen.h: how it is made, and how ids are drawn by it.
#include "screen.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>

#include "sampling_parts.h"

namespace mmpt {
namespace {

constexpr int64_t kMostDepth = 1 << 16;               // int32 sums hold 255 * 127 * 66,000
constexpr int64_t kMembers = 64;                      // hidden rows that walk the codes together
constexpr int64_t kFewest = 256;                      // survivors that are never too many
constexpr double kSmallest = 1e-15, kLargest = 1e15;  // hidden values, rows' lengths: no product over- or underflows
constexpr float kInfinite = std::numeric_limits<float>::infinity();
constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

int64_t padded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

float bound_of(const QuantisedRow& row, int64_t k) {
  if (!(row.norm < kLargest)) return kInfinite;
  const double root = std::sqrt(double(k)), ulp = 0x1p-24;
  const double hidden = root * (1.0 / (2 * 127 * kFine) + 8 * ulp), rounding = (double(k) / 16 + 64) * ulp;
  const double bound = row.error + (double(row.norm) + row.error) * (hidden + rounding);
  return float(bound * (1 + double(k) * ulp + 1e-5));
}

// One hidden row in two int8 terms, x [2][depth]. False where it cannot be screened.
bool split_hidden(const float* h, int64_t k, int64_t depth, int8_t* x, Screened& out) {
  double squares = 0, top = 0;
  bool finite = true;
  for (int64_t i = 0; i < k; ++i) {
    finite &= std::isfinite(h[i]);
    squares += double(h[i]) * h[i];
    top = std::max(top, std::abs(double(h[i])));
  }
  if (!finite || !(top > kSmallest) || !(std::sqrt(squares) < kLargest)) return false;
  out = {0, 0, float(top / (127 * kFine)), float(std::sqrt(squares) * (1 + 1e-6))};
  for (int64_t i = 0; i < k; ++i) {
    const double t = double(h[i]) / out.unit / kFine, coarse = std::nearbyint(t);
    const double fine = std::clamp(std::nearbyint((t - coarse) * kFine), -127.0, 127.0);
    x[i] = int8_t(std::clamp(coarse, -127.0, 127.0));
    x[depth + i] = int8_t(fine);
    out.coarse_shift += kCodeZero * x[i];
    out.fine_shift += kCodeZero * x[depth + i];
  }
  return true;
}

// What one hidden row knows so far: the ids that may still win, and the value that the best of them reaches at least.
// By rank (greedy, top_k): the k-th largest least. With noise: the largest least score.
class Contest {
 public:
  struct Candidate {
    int64_t id;
    double most;
  };

  Contest(const Row& row, int64_t limit)
      : row_(row),
        ranked_(row.temperature == 0 || row.top_k > 0),
        rank_(row.temperature == 0 ? 1 : row.top_k),
        limit_(limit) {}

  bool lost() const { return lost_; }
  const std::vector<Candidate>& candidates() const { return candidates_; }

  // 64 ids from `first` on.
  void see(int64_t first, const float* least, const float* most, const ScreenKernels& kernels) {
    if (ranked_) see_ranked(first, least, most, kernels);
    else see_noisy(first, least, most);
    if (int64_t(candidates_.size()) > limit_) shrink(limit_ / 2);  // half: or it would shrink again at once
  }

  void join(const Contest& other) {
    for (const double value : other.leasts_) raise(value);
    best_ = std::max(best_, other.best_);
    lost_ |= other.lost_;
    candidates_.insert(candidates_.end(), other.candidates_.begin(), other.candidates_.end());
    shrink(limit_);
  }

 private:
  double least() const {
    if (!ranked_) return best_;
    return int64_t(leasts_.size()) < rank_ ? -double(kInfinite) : leasts_.front();
  }

  void raise(double value) {  // leasts_ is a heap, the smallest first
    if (int64_t(leasts_.size()) == rank_) {
      if (value <= leasts_.front()) return;
      std::pop_heap(leasts_.begin(), leasts_.end(), std::greater<>());
      leasts_.pop_back();
    }
    leasts_.push_back(value);
    std::push_heap(leasts_.begin(), leasts_.end(), std::greater<>());
  }

  void see_ranked(int64_t first, const float* least_of, const float* most, const ScreenKernels& kernels) {
    for (uint64_t mask = kernels.above(least_of, float(least())); mask; mask &= mask - 1)
      raise(least_of[__builtin_ctzll(mask)]);
    for (uint64_t mask = kernels.above(most, float(least())); mask; mask &= mask - 1)
      candidates_.push_back({first + __builtin_ctzll(mask), most[__builtin_ctzll(mask)]});
  }

  void see_noisy(int64_t first, const float* least_of, const float* most) {
    const auto* sampling = instruction_set().sampling;
    uint32_t word[kChunk];
    sampling->words(uint64_t(row_.seed), uint64_t(row_.offset), uint64_t(first), kChunk, word);
    const double t = row_.temperature;
    for (uint64_t mask = sampling->contenders(most, word, kChunk, float(1 / t), float(best_)); mask; mask &= mask - 1) {
      const int i = __builtin_ctzll(mask);
      const double noise = gumbel(word[i]), score = double(most[i]) / t + noise;
      best_ = std::max(best_, double(least_of[i]) / t + noise);
      if (score >= best_) candidates_.push_back({first + i, score});
    }
  }

  void shrink(int64_t allowed) {
    const double bar = least();
    const auto out = [&](const Candidate& one) { return one.most < bar; };
    const auto end = std::remove_if(candidates_.begin(), candidates_.end(), out);
    candidates_.erase(end, candidates_.end());
    lost_ |= int64_t(candidates_.size()) > allowed;
    if (lost_) candidates_.clear();
  }

  Row row_;
  bool ranked_;
  int64_t rank_, limit_;
  bool lost_ = false;
  double best_ = -std::numeric_limits<double>::infinity();
  std::vector<double> leasts_;
  std::vector<Candidate> candidates_;
};

bool can_be_screened(const Row& row) {
  if (row.temperature == 0) return true;
  const bool ranked = row.top_k > 0;
  return row.top_p == 1 && row.temperature > 1e-6 && row.temperature < 1e6 && (!ranked || row.top_k <= kFewest / 2);
}

// Rows of one range that are drawn together.
struct Members {
  std::vector<int64_t> place;  // among all rows
  std::vector<Screened> screened;
  std::vector<int8_t> x;  // [2 * members up to a multiple of 16][depth]
  std::vector<Contest> contests;
};

// The blocks of kScreenIds ids [from, to), by one thread.
void walk(const Members& of, const ScreenTensors& screen, int64_t lo, int64_t hi, int64_t from, int64_t to,
          std::vector<Contest>& contests) {
  const ScreenKernels& kernels = *instruction_set().screen;
  const int64_t depth = screen.codes.size(1), terms = 2 * int64_t(of.place.size());
  std::vector<int32_t> sums(padded(terms, 16) * kScreenIds);
  alignas(64) float least[kScreenIds], most[kScreenIds];
  for (int64_t block = from; block < to; ++block) {
    const int64_t first = block * kScreenIds, start = std::max(lo - first, int64_t(0)),
                  end = std::min(hi - first, int64_t(kScreenIds));
    kernels.dots(screen.codes.const_data_ptr<uint8_t>() + first * depth, of.x.data(), terms, depth, sums.data());
    for (size_t i = 0; i < contests.size(); ++i) {
      if (contests[i].lost()) continue;
      const int32_t* coarse = sums.data() + 2 * int64_t(i) * kScreenIds;
      kernels.limits(coarse, coarse + kScreenIds, of.screened[i], screen.scale.const_data_ptr<float>() + first,
                     screen.bound.const_data_ptr<float>() + first, least, most);
      for (float* side : {least, most}) {  // NaN is above nothing
        std::fill(side, side + start, kNothing);
        std::fill(side + end, side + kScreenIds, kNothing);
      }
      for (int64_t at = start / kChunk * kChunk; at < end; at += kChunk)
        contests[i].see(first + at, least + at, most + at, kernels);
    }
  }
}

// The id of a row from its survivors and its extra id, by their full logits; as choose() of all columns.
int64_t choose_few(const Row& row, std::vector<int64_t> ids, const float* x, int64_t k, const HeadRows& head) {
  if (row.side) ids.push_back(row.extra);
  std::sort(ids.begin(), ids.end());
  std::vector<double> scaled(ids.size());
  std::vector<uint32_t> word(ids.size());
  std::vector<int64_t> order;
  for (size_t i = 0; i < ids.size(); ++i) {
    float logit;
    logits_of<float>(head, ids[i], 1, x, k, 1, &logit, 1);
    if (std::isnan(logit)) return -1;
    scaled[i] = row.temperature > 0 ? double(logit) / row.temperature : logit;
    word[i] = philox_word(uint64_t(row.seed), uint64_t(row.offset), uint64_t(ids[i]));
    if (!std::isinf(scaled[i]) || scaled[i] > 0) order.push_back(int64_t(i));
  }
  if (row.temperature == 0) return ids[std::max_element(scaled.begin(), scaled.end()) - scaled.begin()];
  if (row.top_k > 0) best_first(order, row.top_k, scaled);
  return ids[draw_from(order, scaled, word.data())];
}

// Draws the members, rows of range [lo, hi): ids by place, and the places of those that must be drawn in full.
void draw_members(Members& of, const std::vector<Row>& rows, const ScreenTensors& screen, const HeadRows& head,
                  const float* x, int64_t k, std::vector<int64_t>& ids, std::vector<int64_t>& in_full) {
  const Row& any = rows[of.place[0]];
  const int64_t limit = std::max(kFewest, (any.hi - any.lo) / 8), depth = screen.codes.size(1);
  of.x.resize(padded(2 * int64_t(of.place.size()), 16) * depth);
  for (const int64_t place : of.place) of.contests.emplace_back(rows[place], limit);
  const std::vector<Contest> fresh = of.contests;
  std::mutex joining;
  const int64_t grain = std::max<int64_t>(1, (int64_t(1) << 18) / (kScreenIds * depth));
  at::parallel_for(any.lo / kScreenIds, (any.hi + kScreenIds - 1) / kScreenIds, grain, [&](int64_t from, int64_t to) {
    std::vector<Contest> mine = fresh;
    walk(of, screen, any.lo, any.hi, from, to, mine);
    const std::lock_guard<std::mutex> lock(joining);
    for (size_t i = 0; i < mine.size(); ++i) of.contests[i].join(mine[i]);
  });
  for (size_t i = 0; i < of.place.size(); ++i) {
    if (of.contests[i].lost()) {
      in_full.push_back(of.place[i]);
      continue;
    }
    std::vector<int64_t> left;
    for (const auto& one : of.contests[i].candidates()) left.push_back(one.id);
    ids[of.place[i]] = choose_few(rows[of.place[i]], left, x + of.place[i] * k, k, head);
  }
}

// The codes of 16 ids, whose rows of codes lie one after the other, interleaved.
void interleave(const uint8_t* rows, int64_t depth, uint8_t* out) {
  for (int64_t k = 0; k < depth; k += 4)
    for (int64_t i = 0; i < 16; ++i, out += 4) std::memcpy(out, rows + i * depth + k, 4);
}

}  // namespace

NewScreen screen_cpu(const at::Tensor& weight_base, const std::optional<at::Tensor>& weight_new) {
  const HeadRows head{weight_base, weight_new};
  const int64_t k = weight_base.size(1), depth = padded(k, kScreenDepth), ids = padded(head.size(), kScreenIds);
  TORCH_CHECK_VALUE(k <= kMostDepth, "the head has ", k, " dimensions, a screen takes ", kMostDepth, " at most");
  const at::Tensor codes = at::empty({ids, depth}, at::kByte), scale = at::empty({ids}, at::kFloat),
                   bound = at::empty({ids}, at::kFloat);
  uint8_t* code = codes.mutable_data_ptr<uint8_t>();
  float *scales = scale.mutable_data_ptr<float>(), *bounds = bound.mutable_data_ptr<float>();
  at::parallel_for(0, ids / 16, 16, [&](int64_t from, int64_t to) {
    std::vector<float> row(depth);
    std::vector<uint8_t> sixteen(16 * depth);
    for (int64_t tile = from; tile < to; ++tile) {
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t id = tile * 16 + i;
        const float* source = row.data();
        if (id < head.size()) {
          int64_t at, left;
          const at::Tensor& matrix = head.of(id, at, left);
          if (k == depth && matrix.scalar_type() == at::kFloat && matrix.stride(1) == 1)
            source = matrix.const_data_ptr<float>() + at * matrix.stride(0);
          else row_as(matrix, at, row.data());
        } else {
          std::fill(row.begin(), row.end(), 0.f);
        }
        const QuantisedRow one = instruction_set().screen->quantise(source, depth, sixteen.data() + i * depth);
        bounds[id] = bound_of(one, k);
        scales[id] = std::isinf(bounds[id]) ? 0 : one.scale;  // else infinite - infinite, which is above nothing
      }
      interleave(sixteen.data(), depth, code + tile * 16 * depth);
    }
  });
  return {codes, scale, bound};
}

at::Tensor sample_screened_cpu(const at::Tensor& hidden, const at::Tensor& weight_base,
                               const std::optional<at::Tensor>& weight_new, const ScreenTensors& screen,
                               const Sampling& how, int64_t max_range) {
  const HeadRows head{weight_base, weight_new};
  const int64_t k = hidden.size(1), depth = padded(k, kScreenDepth), ids = padded(head.size(), kScreenIds);
  TORCH_CHECK_VALUE(screen.codes.sizes() == at::IntArrayRef({ids, depth}) && screen.scale.numel() == ids &&
                        screen.bound.numel() == ids,
                    "the screen is ", screen.codes.sizes(), ", that of this head would be [", ids, ", ", depth, "]");
  if (hidden.scalar_type() == at::kDouble) return sample_range_cpu(hidden, weight_base, weight_new, 0, how, max_range);
  const std::vector<Row> rows = checked_rows(how, hidden.size(0), head.size(), max_range);
  const at::Tensor held = hidden.to(at::kFloat).contiguous();
  const float* x = held.const_data_ptr<float>();
  std::vector<int64_t> drawn(rows.size()), in_full;
  std::map<std::pair<int64_t, int64_t>, Members> open;
  const auto draw = [&](Members& members) { draw_members(members, rows, screen, head, x, k, drawn, in_full); };
  for (int64_t i = 0; i < int64_t(rows.size()); ++i) {
    Screened one;
    std::vector<int8_t> terms(2 * depth);
    if (!can_be_screened(rows[i]) || !split_hidden(x + i * k, k, depth, terms.data(), one)) {
      in_full.push_back(i);
      continue;
    }
    Members& members = open[{rows[i].lo, rows[i].hi}];
    members.place.push_back(i);
    members.screened.push_back(one);
    members.x.insert(members.x.end(), terms.begin(), terms.end());
    if (int64_t(members.place.size()) == kMembers) {
      draw(members);
      members = Members();
    }
  }
  for (auto& [range, members] : open)
    if (!members.place.empty()) draw(members);
  if (in_full.empty()) return checked_ids(drawn);
  std::vector<Row> rest;
  std::vector<float> rest_x;
  for (const int64_t i : in_full) {
    rest.push_back(rows[i]);
    rest_x.insert(rest_x.end(), x + i * k, x + (i + 1) * k);
  }
  const std::vector<int64_t> found = draw_whole<float>(rest, rest_x.data(), k, head, 0);
  for (size_t i = 0; i < found.size(); ++i) drawn[in_full[i]] = found[i];
  return checked_ids(drawn);
}

}  // namespace mmpt
