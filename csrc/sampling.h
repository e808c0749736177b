// One id a row from an allowed range of the vocabulary: what is asked, for every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace mmpt {

// A parameter that is one number for all rows, or a tensor [B].
template <typename T>
struct PerRow {
  T value;
  const std::optional<at::Tensor>& rows;
};

// Ids in [lo, hi) and, where it is not negative, extra are allowed. Noise is keyed by (seed, offset, id). temperature 0
// is the lowest id with the largest logit. Filters in this order: temperature, top_k (0: off), top_p (1: off).
struct Sampling {
  PerRow<int64_t> lo, hi, extra;
  PerRow<double> temperature;
  PerRow<int64_t> top_k;
  PerRow<double> top_p;
  PerRow<int64_t> seed, offset;
};

// hidden [B, H], weight_base [V0, H], weight_new [T, H]; softcap 0 is off. ids int64 [B]. max_range bounds hi - lo of
// every row and sizes scratch on CUDA (< 0: the whole vocabulary); the CPU has no need of it.
at::Tensor sample_range_cpu(const at::Tensor& hidden, const at::Tensor& weight_base,
                            const std::optional<at::Tensor>& weight_new, double softcap, const Sampling& how,
                            int64_t max_range);
at::Tensor sample_logits_cpu(const at::Tensor& logits, const Sampling& how, int64_t max_range);

// As above without waiting for the device: a row that is NaN, or whose range is empty, out of the vocabulary or wider
// than max_range, gives -1.
at::Tensor sample_range_cuda(const at::Tensor& hidden, const at::Tensor& weight_base,
                             const std::optional<at::Tensor>& weight_new, double softcap, const Sampling& how,
                             int64_t max_range);
at::Tensor sample_logits_cuda(const at::Tensor& logits, const Sampling& how, int64_t max_range);

}  // namespace mmpt
