// The operations on CUDA: scratch, matrix products (cuBLAS through ATen) and the launches between them.
//
// Supervised rows are compacted on the device; capacity for them is max_valid, or the count, read once from the device
// where max_valid is not given. Per chunk of rows: logits into scratch whose segments are padded to 64 columns, so that
// every row and every product but a remainder of < 64 columns is aligned whatever V is; the row kernel turns them into
// gradients in place; d_hidden and d_new accumulate in fp32, chunk after chunk, in one order. The first chunk writes
// what later ones add to, and a call of one chunk writes the gradients of 16-bit weights in their dtype at once.
#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstddef>

#include "cross_entropy_chunks.h"
#include "linear_cross_entropy.cuh"
#include "linear_cross_entropy.h"
#include "sampling.cuh"
#include "sampling.h"

namespace mmpt {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

constexpr int64_t kPad = 64;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return Element::kFloat;
    case at::kBFloat16: return Element::kBFloat16;
    case at::kHalf: return Element::kHalf;
    case at::kDouble: return Element::kDouble;
    default: TORCH_CHECK_VALUE(false, "no kernel for ", type, ", expected float32, bfloat16, float16 or float64");
  }
}

template <typename T>
const T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

Tensor as_type(const Maybe& tensor, at::ScalarType type) { return tensor ? tensor->to(type).contiguous() : Tensor(); }

// out = a @ b, or out += a @ b, in the dtype of out, which may be wider than that of a and b.
void multiply(Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  const bool wider = out.scalar_type() != a.scalar_type();
  if (wider && add) at::addmm_out(out, out, a, b, out.scalar_type());
  else if (wider) at::mm_out(out, a, b, out.scalar_type());
  else if (add) at::addmm_out(out, out, a, b);
  else at::mm_out(out, a, b);
}

// As above. b's first dimension, a's columns, is cut so that the long product is aligned.
void multiply_aligned(Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  const int64_t whole = a.size(1) / kPad * kPad;
  for (const auto& [begin, count] : {std::pair(int64_t(0), whole), std::pair(whole, a.size(1) - whole)}) {
    if (!count) continue;
    multiply(out, a.narrow(1, begin, count), b.narrow(0, begin, count), add);
    add = true;
  }
}

// One matrix of the head, cut to the ids that may be needed, and where its columns lie in the scratch.
struct HeadPart {
  Tensor weight;  // [rows][H] in the dtype of hidden
  int64_t first_id, first_row, column;
  bool trains;
  Tensor grad;  // [all rows][H], once the chunks are known
};

// Device memory of a call.
class Run {
 public:
  // limit: more supervised rows than this are an error.
  Run(const CrossEntropy& call, int64_t limit)
      : call_(call),
        stream_(c10::cuda::getCurrentCUDAStream()),
        element_(element_of(call.hidden.scalar_type())),
        wide_(call.hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
        limit_(limit),
        capacity_(std::max<int64_t>(limit, 1)) {
    const auto options = call.hidden.options();
    const auto of = [&](at::ScalarType type) { return at::empty({capacity_}, options.dtype(type)); };
    row_ = of(at::kInt), target_ = of(at::kLong), lo_ = of(at::kLong), hi_ = of(at::kLong), weight_ = of(at::kDouble);
    term_ = of(at::kDouble), nll_ = of(at::kDouble), lse_ = of(at::kDouble), correct_ = of(at::kBool);
    info_ = at::empty({int64_t(sizeof(CompactionInfo))}, options.dtype(at::kByte));
    unboost_ = info_.narrow(0, offsetof(CompactionInfo, unboost), sizeof(double)).view(at::kDouble);
    rows_ = {row_.mutable_data_ptr<int32_t>(),
             target_.mutable_data_ptr<int64_t>(),
             lo_.mutable_data_ptr<int64_t>(),
             hi_.mutable_data_ptr<int64_t>(),
             weight_.mutable_data_ptr<double>(),
             reinterpret_cast<CompactionInfo*>(info_.mutable_data_ptr<uint8_t>()),
             capacity_};
    results_ = {term_.mutable_data_ptr<double>(), nll_.mutable_data_ptr<double>(), lse_.mutable_data_ptr<double>(),
                correct_.mutable_data_ptr<bool>()};
    cut_head();
    const auto gradient = options.dtype(gradient_type(call.hidden.scalar_type()));
    d_hidden = call.want_hidden ? at::zeros(call.hidden.sizes(), gradient.memory_format(at::MemoryFormat::Contiguous))
                                : at::empty({0}, gradient);
  }

  void compact(const Tensor& upstream, bool mean, double num_items, const Maybe& groups, int64_t num_groups) {
    const Tensor labels = call_.labels.to(at::kLong).contiguous(), lo = as_type(call_.row_lo, at::kLong),
                 hi = as_type(call_.row_hi, at::kLong), weight = as_type(call_.token_weight, at::kDouble),
                 group = as_type(groups, at::kLong);
    const CompactInput input{labels.const_data_ptr<int64_t>(),
                             call_.rows(),
                             call_.ignore_index,
                             call_.lo,
                             call_.hi < 0 ? call_.vocabulary() : call_.hi,
                             call_.vocabulary(),
                             data_or_null<int64_t>(lo),
                             data_or_null<int64_t>(hi),
                             data_or_null<double>(weight),
                             data_or_null<double>(upstream),
                             data_or_null<int64_t>(group),
                             num_groups,
                             mean,
                             boosts(),
                             num_items,
                             limit_};
    launch_compaction(input, rows_, stream_);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // All chunks: statistics unless lse is given, gradients where anything trains.
  void walk(bool given_lse) {
    const bool gradients = call_.want_hidden || call_.want_base || call_.want_new;
    if (given_lse && !gradients) return;
    const int64_t row_bytes = columns_.stride * call_.hidden.element_size();
    const int64_t step = chunk_rows(capacity_, call_.dimensions(), row_bytes, multiprocessor_count());
    make_gradients(capacity_ <= step);
    const auto options = call_.hidden.options();
    Tensor x = at::empty({step, call_.dimensions()}, options), logits = at::empty({step, columns_.stride}, options);
    Tensor d_rows = at::empty({call_.want_hidden ? step : 0, call_.dimensions()}, options.dtype(wide_));
    const RowOptions how{call_.softcap, call_.z_loss, call_.label_smoothing, gradients, given_lse};
    for (int64_t first = 0; first < capacity_; first += step)
      chunk(first, std::min(step, capacity_ - first), x, logits, d_rows, how);
    for (HeadPart& part : parts_)
      if (boosts() && part.trains) part.grad.mul_(unboost_.to(at::kFloat));
  }

  ForwardResult finish(const Reduction& reduction) {
    const int64_t n = call_.rows();
    const auto options = call_.hidden.options().dtype(wide_);
    const bool none = reduction.kind == "none";
    Tensor loss = none ? at::zeros({n}, options) : at::zeros({}, options);
    Tensor nll = at::zeros({n}, options), lse = at::zeros({n}, options),
           correct = at::zeros({n}, options.dtype(at::kBool));
    Tensor group_loss = at::zeros({reduction.num_groups}, options.dtype(at::kDouble));
    Tensor group_count = at::zeros({reduction.num_groups}, options.dtype(at::kLong));
    const Tensor group = as_type(reduction.group, at::kLong);
    launch_finish(
        rows_, results_,
        {loss.mutable_data_ptr(), nll.mutable_data_ptr(), lse.mutable_data_ptr(), correct.mutable_data_ptr<bool>(),
         group_loss.mutable_data_ptr<double>(), group_count.mutable_data_ptr<int64_t>(), data_or_null<int64_t>(group),
         reduction.num_groups, wide_ == at::kDouble, none},
        stream_);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return {loss, nll, lse, correct, group_loss, group_count, d_hidden, d_base(), d_new()};
  }

  // lse [N] of an earlier forward, brought to compact rows.
  void take_lse(const Tensor& lse) {
    if (!call_.rows()) return;  // capacity is one row even then, and that row would be read
    lse_.copy_(lse.to(at::kDouble).index_select(0, row_.clamp_min(0).to(at::kLong)));
  }

  Tensor d_base() const { return gradient_of(0, call_.want_base); }
  Tensor d_new() const { return gradient_of(1, call_.want_new && call_.weight_new); }
  Tensor d_hidden;

 private:
  void cut_head() {
    const bool whole = call_.row_lo || call_.row_hi;
    const int64_t lo = whole ? 0 : call_.lo, hi = whole || call_.hi < 0 ? call_.vocabulary() : call_.hi;
    TORCH_CHECK_VALUE(0 <= lo && lo < hi && hi <= call_.vocabulary(), "column range [", lo, ", ", hi,
                      ") is not within [0, ", call_.vocabulary(), ")");
    int64_t column = 0;
    const auto add = [&](const Tensor& weight, int64_t first, bool trains) {
      const int64_t from = std::clamp(lo - first, int64_t(0), weight.size(0));
      const int64_t to = std::clamp(hi - first, from, weight.size(0));
      parts_.push_back(
          {weight.narrow(0, from, to - from).to(call_.hidden.scalar_type()), first + from, from, column, trains, {}});
      column += round_up(to - from, kPad);
    };
    add(call_.weight_base, 0, call_.want_base);
    if (call_.weight_new) add(*call_.weight_new, call_.base_rows(), call_.want_new);
    const HeadPart& base = parts_.front();
    const bool two = parts_.size() == 2;
    columns_ = {base.first_id,
                base.weight.size(0),
                round_up(base.weight.size(0), kPad),
                two ? parts_[1].first_id : 0,
                two ? parts_[1].weight.size(0) : 0,
                column};
  }

  // Whether gradients of logits are stored times a power of two: in fp16, 1 / N of a small probability is 0.
  bool boosts() const { return element_ == Element::kHalf; }

  // Sums over chunks are fp32 or fp64. One chunk alone writes what is returned, where that is its own 16-bit dtype. The
  // first chunk writes all of a matrix that the range does not cut.
  void make_gradients(bool one_chunk) {
    const Tensor* weights[] = {&call_.weight_base, call_.weight_new ? &*call_.weight_new : nullptr};
    for (size_t i = 0; i < parts_.size(); ++i) {
      HeadPart& part = parts_[i];
      if (!part.trains) continue;
      const at::ScalarType type = weights[i]->scalar_type();
      const bool at_once = one_chunk && !boosts() && type == call_.hidden.scalar_type();
      const auto options =
          weights[i]->options().dtype(at_once ? type : wide_).memory_format(at::MemoryFormat::Contiguous);
      const bool whole = part.weight.size(0) == weights[i]->size(0);
      part.grad = whole ? at::empty(weights[i]->sizes(), options) : at::zeros(weights[i]->sizes(), options);
    }
  }

  void chunk(int64_t first, int64_t count, Tensor& x_all, Tensor& logits_all, Tensor& d_all, const RowOptions& how) {
    Tensor x = x_all.narrow(0, 0, count), logits = logits_all.narrow(0, 0, count);
    const Tensor hidden = call_.hidden.stride(1) == 1 ? call_.hidden : call_.hidden.contiguous();
    launch_gather(element_, hidden.const_data_ptr(), hidden.stride(0), call_.dimensions(), rows_, first, count,
                  x.mutable_data_ptr(), stream_);
    for (const HeadPart& part : parts_) {
      const int64_t rows = part.weight.size(0), whole = rows / kPad * kPad;
      for (const auto& [begin, n] : {std::pair(int64_t(0), whole), std::pair(whole, rows - whole)}) {
        if (!n) continue;
        Tensor out = logits.narrow(1, part.column + begin, n);
        at::mm_out(out, x, part.weight.narrow(0, begin, n).t());
      }
    }
    launch_rows(element_, logits.mutable_data_ptr(), columns_, rows_, first, count, how, results_, stream_);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    if (!how.write_gradient) return;
    bool empty = true;
    for (HeadPart& part : parts_) {
      const int64_t rows = part.weight.size(0);
      if (!rows) continue;
      const Tensor d_logits = logits.narrow(1, part.column, rows);
      if (call_.want_hidden) {
        Tensor d = d_all.narrow(0, 0, count);
        multiply_aligned(d, d_logits, part.weight, !empty);
        empty = false;
      }
      if (part.trains) {
        Tensor grad = part.grad.narrow(0, part.first_row, rows);
        multiply(grad, d_logits.t(), x, first > 0);
      }
    }
    if (call_.want_hidden) {
      const Element out = element_of(gradient_type(call_.hidden.scalar_type()));
      launch_scatter_hidden(out, d_all.const_data_ptr(), call_.dimensions(), rows_, first, count,
                            d_hidden.mutable_data_ptr(), stream_);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }

  Tensor gradient_of(size_t part, bool wanted) const {
    const at::ScalarType type = (part && call_.weight_new ? *call_.weight_new : call_.weight_base).scalar_type();
    const at::ScalarType out = gradient_type(type);
    return wanted ? parts_[part].grad.to(out) : at::empty({0}, call_.hidden.options().dtype(out));
  }

  const CrossEntropy& call_;
  cudaStream_t stream_;
  Element element_;
  at::ScalarType wide_;
  int64_t limit_, capacity_;
  Tensor row_, target_, lo_, hi_, weight_, info_, unboost_, term_, nll_, lse_, correct_;
  CompactRows rows_;
  RowResults results_;
  Columns columns_;
  std::vector<HeadPart> parts_;
};

// Room for the supervised rows: what the caller promises, else what the labels hold. A capture cannot wait for that
// count, so there it is all rows.
int64_t capacity_of(const CrossEntropy& call, std::optional<int64_t> max_valid) {
  if (max_valid) return std::min(*max_valid, call.rows());
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) return call.rows();
  return call.labels.ne(call.ignore_index).sum().item<int64_t>();
}

template <typename T>
DeviceParameter<T> on_device(const char* name, const PerRow<T>& of, const Tensor& like, int64_t batch,
                             std::vector<Tensor>& keep) {
  if (!of.rows) return {of.value, nullptr, 0};
  TORCH_CHECK_VALUE(of.rows->dim() == 0 || (of.rows->dim() == 1 && of.rows->size(0) == batch), name, " is ",
                    of.rows->sizes(), ", expected a number or [", batch, "]");
  keep.push_back(of.rows->to(like.options().dtype(std::is_floating_point_v<T> ? at::kDouble : at::kLong)).contiguous());
  return {of.value, keep.back().const_data_ptr<T>(), of.rows->dim()};
}

DeviceSampling on_device(const Sampling& how, const Tensor& like, int64_t vocabulary, int64_t max_range,
                         std::vector<Tensor>& keep) {
  const int64_t batch = like.size(0);
  const auto move = [&](const char* name, const auto& of) { return on_device(name, of, like, batch, keep); };
  // Numbers are checked here, where that costs nothing; of tensors per row that has no meaning draws -1.
  check_parameters(how.temperature.rows ? 0.0 : how.temperature.value, how.top_k.rows ? 0 : how.top_k.value,
                   how.top_p.rows ? 1.0 : how.top_p.value, "of the call");
  return {move("lo", how.lo),
          move("hi", how.hi),
          move("extra_id", how.extra),
          move("temperature", how.temperature),
          move("top_k", how.top_k),
          move("top_p", how.top_p),
          move("seed", how.seed),
          move("offset", how.offset),
          batch,
          vocabulary,
          max_range < 0 ? vocabulary : std::min(max_range, vocabulary)};
}

// The rows' logits, put into scratch by `fill`, and one id of each.
template <typename F>
Tensor sample(const Tensor& like, const DeviceSampling& how, F&& fill) {
  Tensor ids = at::empty({how.batch}, like.options().dtype(at::kLong));
  if (!how.batch) return ids;
  const int64_t stride = round_up(how.max_range + 1, 4);
  Tensor values = at::empty({how.batch, stride}, like.options().dtype(at::kFloat));
  fill(values.mutable_data_ptr<float>(), stride);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  launch_choose(values.const_data_ptr<float>(), stride, how, ids.mutable_data_ptr<int64_t>(),
                c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return ids;
}

void check_no_double(const Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.scalar_type() != at::kDouble,
                    "sampling on CUDA has no float64 kernel; convert to float32 or sample on the CPU");
}

}  // namespace

ForwardResult cross_entropy_cuda(const CrossEntropy& call, const Reduction& reduction) {
  const c10::cuda::CUDAGuard guard(call.hidden.device());
  Run run(call, capacity_of(call, reduction.max_valid));
  run.compact(Tensor(), reduction.kind == "mean", reduction.num_items.value_or(-1.0), reduction.group,
              reduction.num_groups);
  run.walk(false);
  return run.finish(reduction);
}

Gradients cross_entropy_backward_cuda(const CrossEntropy& call, const Tensor& lse, const Tensor& upstream,
                                      std::optional<int64_t> max_valid) {
  const c10::cuda::CUDAGuard guard(call.hidden.device());
  Run run(call, capacity_of(call, max_valid));
  run.compact(upstream.to(at::kDouble).contiguous(), false, -1.0, std::nullopt, 0);
  run.take_lse(lse);
  run.walk(true);
  return {run.d_hidden, run.d_base(), run.d_new()};
}

Tensor sample_range_cuda(const Tensor& hidden, const Tensor& weight_base, const Maybe& weight_new, double softcap,
                         const Sampling& how, int64_t max_range, bool tensor_cores) {
  const c10::cuda::CUDAGuard guard(hidden.device());
  for (const Tensor* tensor : {&hidden, &weight_base}) check_no_double(*tensor);
  if (weight_new) check_no_double(*weight_new);
  std::vector<Tensor> keep;
  const int64_t fresh = weight_new ? weight_new->size(0) : 0;
  const DeviceSampling device = on_device(how, hidden, weight_base.size(0) + fresh, max_range, keep);
  const auto lined_up = [](const Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); };
  // Tensor cores need rows that are 16-byte aligned; those of hidden are few.
  const Tensor x = tensor_cores ? hidden.clone(at::MemoryFormat::Contiguous) : lined_up(hidden),
               base = lined_up(weight_base), more = weight_new ? lined_up(*weight_new) : Tensor();
  const DeviceHead head{base.const_data_ptr(),
                        base.size(0),
                        base.stride(0),
                        element_of(base.scalar_type()),
                        fresh ? more.const_data_ptr() : nullptr,
                        fresh ? more.stride(0) : 0,
                        fresh ? element_of(more.scalar_type()) : Element::kFloat,
                        hidden.size(1),
                        float(softcap)};
  const Element element = element_of(x.scalar_type());
  const int64_t until = tensor_cores ? products_until(x.const_data_ptr(), element, x.stride(0), head) : 0;
  return sample(hidden, device, [&](float* values, int64_t stride) {
    const auto stream = c10::cuda::getCurrentCUDAStream();
    if (until)
      launch_range_products(x.const_data_ptr(), element, x.stride(0), head, device, until, values, stride, stream);
    if (until < device.vocabulary)
      launch_range_logits(x.const_data_ptr(), element, x.stride(0), head, device, until, values, stride, stream);
  });
}

Tensor sample_logits_cuda(const Tensor& logits, const Sampling& how, int64_t max_range) {
  const c10::cuda::CUDAGuard guard(logits.device());
  check_no_double(logits);
  std::vector<Tensor> keep;
  const DeviceSampling device = on_device(how, logits, logits.size(1), max_range, keep);
  return sample(logits, device, [&](float* values, int64_t stride) {
    launch_copy_logits(logits.const_data_ptr(), element_of(logits.scalar_type()), logits.stride(0), logits.stride(1),
                       device, values, stride, c10::cuda::getCurrentCUDAStream());
  });
}

}  // namespace mmpt
