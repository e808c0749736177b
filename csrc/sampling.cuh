// Kernels of range-constrained sampling on CUDA, as launchers free of torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "linear_cross_entropy.cuh"

namespace mmpt {

// A parameter on the device: rows[b] where there are rows, else value. `step` 0 repeats one element.
template <typename T>
struct DeviceParameter {
  T value;
  const T* rows;
  int64_t step;
};

struct DeviceSampling {
  DeviceParameter<int64_t> lo, hi, extra;
  DeviceParameter<double> temperature;
  DeviceParameter<int64_t> top_k;
  DeviceParameter<double> top_p;
  DeviceParameter<int64_t> seed, offset;
  int64_t batch, vocabulary, max_range;
};

struct DeviceHead {
  const void* base;
  int64_t base_rows, base_stride;
  Element base_element;
  const void* fresh;
  int64_t fresh_stride;
  Element fresh_element;
  int64_t dimensions;
  float softcap;
};

// values [batch][stride] fp32: the logits of each row's allowed ids in ascending order of id; here of those ids that
// are not below `from`.
void launch_range_logits(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head,
                         const DeviceSampling& how, int64_t from, float* values, int64_t stride, cudaStream_t stream);
// The same by tensor cores (sm_80 and later), rounded otherwise, of the ids below `until`. products_until: which ids
// that can be: those whose weights are 16 bits wide like hidden, where dimensions are a multiple of 32 and rows 16-byte
// aligned.
int64_t products_until(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head);
void launch_range_products(const void* hidden, Element element, int64_t hidden_stride, const DeviceHead& head,
                           const DeviceSampling& how, int64_t until, float* values, int64_t stride,
                           cudaStream_t stream);
void launch_copy_logits(const void* logits, Element element, int64_t row_stride, int64_t step,
                        const DeviceSampling& how, float* values, int64_t stride, cudaStream_t stream);
// ids [batch]; -1 where a logit is NaN, the range is empty, out of the vocabulary or wider than max_range, or another
// parameter has no meaning.
void launch_choose(const float* values, int64_t stride, const DeviceSampling& how, int64_t* ids, cudaStream_t stream);

}  // namespace mmpt
