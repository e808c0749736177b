// Kernels of the masked cross-entropy on CUDA, as launchers free of torch; ops_cuda.cpp allocates and multiplies.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mmpt {

enum class Element { kFloat, kBFloat16, kHalf, kDouble };

// What the compaction leaves on the device.
struct CompactionInfo {
  int32_t count;   // supervised rows, at most the capacity
  int32_t error;   // 0, or 1 a label, a range or a group out of bounds, or 2 more rows than the limit
  double scale;    // what every weight is multiplied by: 1, or one over the mean's denominator; NaN with an error
  double boost;    // a power of two by which gradients of logits are stored too large, and its inverse: 1 but for
  double unboost;  // fp16, in which p / N would be 0
};

// The rows a launch works on; all pointers are on the device.
struct CompactRows {
  int32_t* row;     // [capacity] row in the batch, -1 beyond count
  int64_t* target;  // [capacity]
  int64_t* lo;      // [capacity]
  int64_t* hi;      // [capacity]
  double* weight;   // [capacity] token weight, times upstream where there is one
  CompactionInfo* info;
  int64_t capacity;
};

struct CompactInput {
  const int64_t* labels;
  int64_t count, ignore_index;
  int64_t lo, hi, vocabulary;  // hi already resolved
  const int64_t* row_lo;       // null: the numbers above
  const int64_t* row_hi;
  const double* token_weight;  // null: 1
  const double* upstream;      // null: 1
  const int64_t* group;        // null, or ids in [0, groups)
  int64_t groups;
  bool mean, boosts;
  double num_items;  // < 0: the sum of the weights
  int64_t limit;     // more supervised rows are an error
};

// The columns of a logits row: base ids first, new ids after a pad. Pads belong to no id.
struct Columns {
  int64_t base_first, base_count, base_padded;
  int64_t new_first, new_count;
  int64_t stride;  // elements of a row, a multiple of 64
};

struct RowOptions {
  double softcap, z_loss, label_smoothing;
  bool write_gradient;  // leave d(loss)/d(logit) in place of the logits
  bool given_lse;       // lse is read, nothing but the gradient is written
};

// Per compact row, [capacity].
struct RowResults {
  double* term;
  double* nll;
  double* lse;
  bool* correct;
};

int multiprocessor_count();
void launch_compaction(const CompactInput& input, const CompactRows& rows, cudaStream_t stream);
// out [rows][dimensions] = hidden rows of compact rows first ..., zeros beyond count.
void launch_gather(Element element, const void* hidden, int64_t stride, int64_t dimensions, const CompactRows& rows,
                   int64_t first, int64_t count, void* out, cudaStream_t stream);
// Softmax statistics and gradient of `count` rows of logits, compact rows first ...
void launch_rows(Element element, void* logits, const Columns& columns, const CompactRows& rows, int64_t first,
                 int64_t count, const RowOptions& options, const RowResults& results, cudaStream_t stream);
// d_hidden [N][dimensions] of `element`, zero before: the rows of fp32 or fp64 sums d_rows, without the boost.
void launch_scatter_hidden(Element element, const void* d_rows, int64_t dimensions, const CompactRows& rows,
                           int64_t first, int64_t count, void* d_hidden, cudaStream_t stream);

struct FinalOutputs {
  void* loss;            // one value, or [N] for none; fp32 or fp64 as `wide`
  void* nll;             // [N]
  void* lse;             // [N]
  bool* correct;         // [N]
  double* group_loss;    // [groups]
  int64_t* group_count;  // [groups]
  const int64_t* group;  // [N] or null
  int64_t groups;
  bool wide, none;
};
// Scatters per-row results and sums loss and groups, each by one block in one order.
void launch_finish(const CompactRows& rows, const RowResults& results, const FinalOutputs& out, cudaStream_t stream);

}  // namespace mmpt
