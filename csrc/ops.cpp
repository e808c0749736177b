// The operations' schemas, and their registration for CPU, Meta and, where it is built (MMPT_CUDA), CUDA.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "linear_cross_entropy.h"
#include "sampling.h"
#include "screen.h"
#include "tiles.h"

namespace mmpt {

void check_cross_entropy(const CrossEntropy& call) {
  TORCH_CHECK_VALUE(call.hidden.dim() == 2 && call.labels.dim() == 1 && call.labels.size(0) == call.hidden.size(0),
                    "hidden is ", call.hidden.sizes(), " and labels ", call.labels.sizes(),
                    ", expected [N, H] and [N]");
  TORCH_CHECK_VALUE(at::isIntegralType(call.labels.scalar_type(), false), "labels are ", call.labels.scalar_type(),
                    ", expected integers");
  const auto weight = [&](const char* name, const at::Tensor& matrix) {
    TORCH_CHECK_VALUE(matrix.dim() == 2 && matrix.size(1) == call.hidden.size(1), name, " is ", matrix.sizes(),
                      ", expected [rows, ", call.hidden.size(1), "] as hidden");
    TORCH_CHECK_VALUE(at::isFloatingType(matrix.scalar_type()), name, " is ", matrix.scalar_type(),
                      ", expected floating point");
    TORCH_CHECK_VALUE(matrix.device() == call.hidden.device(), name, " is on ", matrix.device(), " and hidden on ",
                      call.hidden.device());
  };
  TORCH_CHECK_VALUE(at::isFloatingType(call.hidden.scalar_type()), "hidden is ", call.hidden.scalar_type(),
                    ", expected floating point");
  weight("weight_base", call.weight_base);
  if (call.weight_new) weight("weight_new", *call.weight_new);
  const auto rows = [&](const char* name, const std::optional<at::Tensor>& value) {
    TORCH_CHECK_VALUE(!value || (value->dim() == 1 && value->size(0) == call.hidden.size(0)), name, " is ",
                      value->sizes(), ", expected [", call.hidden.size(0), "]");
  };
  const auto beside = [&](const char* name, const std::optional<at::Tensor>& value) {
    TORCH_CHECK_VALUE(!value || value->device() == call.hidden.device(), name, " is on ", value->device(),
                      " and hidden on ", call.hidden.device());
  };
  beside("labels", call.labels);
  beside("column_range lo", call.row_lo);
  beside("column_range hi", call.row_hi);
  beside("token_weight", call.token_weight);
  rows("column_range lo", call.row_lo);
  rows("column_range hi", call.row_hi);
  rows("token_weight", call.token_weight);
  TORCH_CHECK_VALUE(call.softcap >= 0, "softcap is ", call.softcap, ", expected a positive number");
  TORCH_CHECK_VALUE(0 <= call.label_smoothing && call.label_smoothing < 1, "label_smoothing is ", call.label_smoothing,
                    ", expected [0, 1)");
  constexpr int64_t kMostIds = (int64_t(1) << 31) - 1;
  TORCH_CHECK_VALUE(call.vocabulary() <= kMostIds, "the vocabulary has ", call.vocabulary(), " ids, at most ",
                    kMostIds);
}

namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

void check_reduction(const CrossEntropy& call, const Reduction& reduction) {
  TORCH_CHECK_VALUE(reduction.kind == "mean" || reduction.kind == "sum" || reduction.kind == "none", "reduction is '",
                    reduction.kind, "', expected mean, sum or none");
  TORCH_CHECK_VALUE(!reduction.group || (reduction.group->dim() == 1 && reduction.group->size(0) == call.rows()),
                    "group is ", reduction.group->sizes(), ", expected [", call.rows(), "]");
  TORCH_CHECK_VALUE(!reduction.group || reduction.group->device() == call.hidden.device(), "group is on ",
                    reduction.group->device(), " and hidden on ", call.hidden.device());
  TORCH_CHECK_VALUE(reduction.num_groups >= 0, "num_groups is ", reduction.num_groups);
}

template <ForwardResult (*Run)(const CrossEntropy&, const Reduction&)>
ForwardResult cross_entropy(const Tensor& hidden, const Tensor& labels, const Tensor& weight_base,
                            const Maybe& weight_new, int64_t ignore_index, int64_t lo, int64_t hi, const Maybe& row_lo,
                            const Maybe& row_hi, const Maybe& group, int64_t num_groups, const Maybe& token_weight,
                            double softcap, double z_loss, double label_smoothing, std::string_view reduction,
                            std::optional<double> num_items, std::optional<int64_t> max_valid, bool want_hidden,
                            bool want_base, bool want_new) {
  const CrossEntropy call{
      hidden, labels,       weight_base, weight_new, ignore_index,    lo,          hi,        row_lo,
      row_hi, token_weight, softcap,     z_loss,     label_smoothing, want_hidden, want_base, want_new};
  const Reduction how{reduction, num_items, max_valid, group, num_groups};
  check_cross_entropy(call);
  check_reduction(call, how);
  return Run(call, how);
}

template <Gradients (*Run)(const CrossEntropy&, const Tensor&, const Tensor&, std::optional<int64_t>)>
Gradients cross_entropy_backward(const Tensor& hidden, const Tensor& labels, const Tensor& weight_base,
                                 const Maybe& weight_new, const Tensor& lse, const Tensor& upstream,
                                 int64_t ignore_index, int64_t lo, int64_t hi, const Maybe& row_lo, const Maybe& row_hi,
                                 const Maybe& token_weight, double softcap, double z_loss, double label_smoothing,
                                 std::optional<int64_t> max_valid, bool want_hidden, bool want_base, bool want_new) {
  const CrossEntropy call{
      hidden, labels,       weight_base, weight_new, ignore_index,    lo,          hi,        row_lo,
      row_hi, token_weight, softcap,     z_loss,     label_smoothing, want_hidden, want_base, want_new};
  check_cross_entropy(call);
  return Run(call, lse, upstream, max_valid);
}

at::ScalarType accumulation(const Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor gradient_meta(const Tensor& like, bool wanted) {
  const auto options = like.options().dtype(gradient_type(like.scalar_type()));
  return wanted ? at::empty_symint(like.sym_sizes(), options) : at::empty({0}, options);
}

// Shapes alone; sizes stay symbolic.
ForwardResult cross_entropy_meta(const Tensor& hidden, const Tensor&, const Tensor& weight_base,
                                 const Maybe& weight_new, int64_t, int64_t, int64_t, const Maybe&, const Maybe&,
                                 const Maybe&, int64_t num_groups, const Maybe&, double, double, double,
                                 std::string_view reduction, std::optional<double>, std::optional<int64_t>,
                                 bool want_hidden, bool want_base, bool want_new) {
  const auto acc = accumulation(hidden);
  const auto options = hidden.options().dtype(acc);
  const auto row = [&](at::ScalarType dtype) {
    return at::empty_symint({hidden.sym_size(0)}, hidden.options().dtype(dtype));
  };
  return {reduction == "none" ? row(acc) : at::empty({}, options),
          row(acc),
          row(acc),
          row(at::kBool),
          at::empty({num_groups}, options.dtype(at::kDouble)),
          at::empty({num_groups}, options.dtype(at::kLong)),
          gradient_meta(hidden, want_hidden),
          gradient_meta(weight_base, want_base),
          gradient_meta(weight_new ? *weight_new : weight_base, want_new && weight_new)};
}

Gradients cross_entropy_backward_meta(const Tensor& hidden, const Tensor&, const Tensor& weight_base,
                                      const Maybe& weight_new, const Tensor&, const Tensor&, int64_t, int64_t, int64_t,
                                      const Maybe&, const Maybe&, const Maybe&, double, double, double,
                                      std::optional<int64_t>, bool want_hidden, bool want_base, bool want_new) {
  return {gradient_meta(hidden, want_hidden), gradient_meta(weight_base, want_base),
          gradient_meta(weight_new ? *weight_new : weight_base, want_new && weight_new)};
}

using SampleRange = Tensor (*)(const Tensor&, const Tensor&, const Maybe&, double, const Sampling&, int64_t, bool);
using SampleLogits = Tensor (*)(const Tensor&, const Sampling&, int64_t);

void check_head(const Tensor& hidden, const Tensor& weight_base, const Maybe& weight_new) {
  TORCH_CHECK_VALUE(hidden.dim() == 2 && weight_base.dim() == 2 && hidden.size(1) == weight_base.size(1) &&
                        (!weight_new || (weight_new->dim() == 2 && weight_new->size(1) == hidden.size(1))),
                    "hidden is ", hidden.sizes(), ", weight_base ", weight_base.sizes(),
                    ", expected [B, H] and [V0, H], and weight_new [T, H]");
  TORCH_CHECK_VALUE(weight_base.device() == hidden.device() && (!weight_new || weight_new->device() == hidden.device()),
                    "hidden is on ", hidden.device(), " and weight_base on ", weight_base.device(),
                    ", expected one device for it and both weights");
}

template <SampleRange Run>
Tensor sample_range(const Tensor& hidden, const Tensor& weight_base, const Maybe& weight_new, double softcap,
                    int64_t lo, int64_t hi, int64_t extra, double temperature, int64_t top_k, double top_p,
                    int64_t seed, int64_t offset, const Maybe& row_lo, const Maybe& row_hi, const Maybe& row_extra,
                    const Maybe& row_temperature, const Maybe& row_top_k, const Maybe& row_top_p, const Maybe& row_seed,
                    const Maybe& row_offset, int64_t max_range, bool tensor_cores) {
  check_head(hidden, weight_base, weight_new);
  return Run(hidden, weight_base, weight_new, softcap,
             {{lo, row_lo},
              {hi, row_hi},
              {extra, row_extra},
              {temperature, row_temperature},
              {top_k, row_top_k},
              {top_p, row_top_p},
              {seed, row_seed},
              {offset, row_offset}},
             max_range, tensor_cores);
}

template <SampleLogits Run>
Tensor sample_logits(const Tensor& logits, int64_t lo, int64_t hi, int64_t extra, double temperature, int64_t top_k,
                     double top_p, int64_t seed, int64_t offset, const Maybe& row_lo, const Maybe& row_hi,
                     const Maybe& row_extra, const Maybe& row_temperature, const Maybe& row_top_k,
                     const Maybe& row_top_p, const Maybe& row_seed, const Maybe& row_offset, int64_t max_range) {
  TORCH_CHECK_VALUE(logits.dim() == 2, "logits is ", logits.sizes(), ", expected [B, V]");
  return Run(logits,
             {{lo, row_lo},
              {hi, row_hi},
              {extra, row_extra},
              {temperature, row_temperature},
              {top_k, row_top_k},
              {top_p, row_top_p},
              {seed, row_seed},
              {offset, row_offset}},
             max_range);
}

Tensor sample_screened(const Tensor& hidden, const Tensor& weight_base, const Maybe& weight_new, const Tensor& codes,
                       const Tensor& scale, const Tensor& bound, int64_t lo, int64_t hi, int64_t extra,
                       double temperature, int64_t top_k, double top_p, int64_t seed, int64_t offset,
                       const Maybe& row_lo, const Maybe& row_hi, const Maybe& row_extra, const Maybe& row_temperature,
                       const Maybe& row_top_k, const Maybe& row_top_p, const Maybe& row_seed, const Maybe& row_offset,
                       int64_t max_range) {
  check_head(hidden, weight_base, weight_new);
  TORCH_CHECK_VALUE(codes.scalar_type() == at::kByte && scale.scalar_type() == at::kFloat &&
                        bound.scalar_type() == at::kFloat && codes.dim() == 2 && codes.is_contiguous() &&
                        scale.is_contiguous() && bound.is_contiguous(),
                    "the screen's codes, scale and bound are not what mmpt::screen made");
  return sample_screened_cpu(hidden, weight_base, weight_new, {codes, scale, bound},
                             {{lo, row_lo},
                              {hi, row_hi},
                              {extra, row_extra},
                              {temperature, row_temperature},
                              {top_k, row_top_k},
                              {top_p, row_top_p},
                              {seed, row_seed},
                              {offset, row_offset}},
                             max_range);
}

NewScreen screen(const Tensor& weight_base, const Maybe& weight_new) {
  check_head(weight_base, weight_base, weight_new);
  return screen_cpu(weight_base, weight_new);
}

NewScreen screen_meta(const Tensor& weight_base, const Maybe& weight_new) {
  const auto up = [](const c10::SymInt& n, int64_t step) { return (n + (step - 1)) / step * step; };
  const c10::SymInt rows = weight_base.sym_size(0) + (weight_new ? weight_new->sym_size(0) : c10::SymInt(0));
  const c10::SymInt ids = up(rows, kScreenIds), depth = up(weight_base.sym_size(1), kScreenDepth);
  const auto made = [&](c10::SymIntArrayRef sizes, at::ScalarType dtype) {
    return at::empty_symint(sizes, weight_base.options().dtype(dtype));
  };
  return {made({ids, depth}, at::kByte), made({ids}, at::kFloat), made({ids}, at::kFloat)};
}

Tensor sample_range_meta(const Tensor& hidden, const Tensor&, const Maybe&, double, int64_t, int64_t, int64_t, double,
                         int64_t, double, int64_t, int64_t, const Maybe&, const Maybe&, const Maybe&, const Maybe&,
                         const Maybe&, const Maybe&, const Maybe&, const Maybe&, int64_t, bool) {
  return at::empty_symint({hidden.sym_size(0)}, hidden.options().dtype(at::kLong));
}

// The CPU has no other way to compute logits.
Tensor sample_range_on_cpu(const Tensor& hidden, const Tensor& weight_base, const Maybe& weight_new, double softcap,
                           const Sampling& how, int64_t max_range, bool) {
  return sample_range_cpu(hidden, weight_base, weight_new, softcap, how, max_range);
}

Tensor sample_screened_meta(const Tensor& hidden, const Tensor&, const Maybe&, const Tensor&, const Tensor&,
                            const Tensor&, int64_t, int64_t, int64_t, double, int64_t, double, int64_t, int64_t,
                            const Maybe&, const Maybe&, const Maybe&, const Maybe&, const Maybe&, const Maybe&,
                            const Maybe&, const Maybe&, int64_t) {
  return at::empty_symint({hidden.sym_size(0)}, hidden.options().dtype(at::kLong));
}

Tensor sample_logits_meta(const Tensor& logits, int64_t, int64_t, int64_t, double, int64_t, double, int64_t, int64_t,
                          const Maybe&, const Maybe&, const Maybe&, const Maybe&, const Maybe&, const Maybe&,
                          const Maybe&, const Maybe&, int64_t) {
  return at::empty_symint({logits.sym_size(0)}, logits.options().dtype(at::kLong));
}

}  // namespace

#define MMPT_SAMPLING_ARGUMENTS                                                                        \
  "int lo, int hi, int extra_id, float temperature, int top_k, float top_p, int seed, int offset, "    \
  "Tensor? row_lo, Tensor? row_hi, Tensor? row_extra_id, Tensor? row_temperature, Tensor? row_top_k, " \
  "Tensor? row_top_p, Tensor? row_seed, Tensor? row_offset, int max_range"

TORCH_LIBRARY(mmpt, m) {
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor labels, Tensor weight_base, Tensor? weight_new, int ignore_index, "
      "int lo, int hi, Tensor? row_lo, Tensor? row_hi, Tensor? group, int num_groups, Tensor? token_weight, "
      "float softcap, float z_loss, float label_smoothing, str reduction, float? num_items, int? max_valid, "
      "bool want_hidden, bool want_base, bool want_new) -> (Tensor loss, Tensor nll, Tensor lse, Tensor correct, "
      "Tensor group_loss, Tensor group_count, Tensor d_hidden, Tensor d_base, Tensor d_new)");
  m.def(
      "linear_cross_entropy_backward(Tensor hidden, Tensor labels, Tensor weight_base, Tensor? weight_new, Tensor lse, "
      "Tensor upstream, int ignore_index, int lo, int hi, Tensor? row_lo, Tensor? row_hi, Tensor? token_weight, "
      "float softcap, float z_loss, float label_smoothing, int? max_valid, bool want_hidden, bool want_base, "
      "bool want_new) -> (Tensor d_hidden, Tensor d_base, Tensor d_new)");
  m.def("sample_range(Tensor hidden, Tensor weight_base, Tensor? weight_new, float softcap, " MMPT_SAMPLING_ARGUMENTS
        ", bool tensor_cores=False) -> Tensor");
  m.def("sample_logits(Tensor logits, " MMPT_SAMPLING_ARGUMENTS ") -> Tensor");
  m.def("screen(Tensor weight_base, Tensor? weight_new) -> (Tensor codes, Tensor scale, Tensor bound)");
  m.def(
      "sample_screened(Tensor hidden, Tensor weight_base, Tensor? weight_new, Tensor codes, Tensor scale, "
      "Tensor bound, " MMPT_SAMPLING_ARGUMENTS ") -> Tensor");
}

TORCH_LIBRARY_IMPL(mmpt, CPU, m) {
  m.impl("linear_cross_entropy", cross_entropy<cross_entropy_cpu>);
  m.impl("linear_cross_entropy_backward", cross_entropy_backward<cross_entropy_backward_cpu>);
  m.impl("sample_range", sample_range<sample_range_on_cpu>);
  m.impl("sample_logits", sample_logits<sample_logits_cpu>);
  m.impl("screen", screen);
  m.impl("sample_screened", sample_screened);
}

#ifdef MMPT_CUDA
TORCH_LIBRARY_IMPL(mmpt, CUDA, m) {
  m.impl("linear_cross_entropy", cross_entropy<cross_entropy_cuda>);
  m.impl("linear_cross_entropy_backward", cross_entropy_backward<cross_entropy_backward_cuda>);
  m.impl("sample_range", sample_range<sample_range_cuda>);
  m.impl("sample_logits", sample_logits<sample_logits_cuda>);
}
#endif

TORCH_LIBRARY_IMPL(mmpt, Meta, m) {
  m.impl("linear_cross_entropy", cross_entropy_meta);
  m.impl("linear_cross_entropy_backward", cross_entropy_backward_meta);
  m.impl("sample_range", sample_range_meta);
  m.impl("sample_logits", sample_logits_meta);
  m.impl("screen", screen_meta);
  m.impl("sample_screened", sample_screened_meta);
}

}  // namespace mmpt
