// The loops of tiles.h with what every processor of the family has: 16-byte vectors, or what the compiler makes of
// them.
#define MMPT_SET generic
#define MMPT_VECTOR_BYTES 16
#include "tiles_impl.h"
#include "screen_impl.h"

const mmpt::InstructionSet& mmpt::generic_set() {
  static constexpr InstructionSet set{"generic", &generic::kTiles<float>, &generic::kTiles<double>,
                                      nullptr,   &generic::kSampling,     &generic::kScreen};
  return set;
}
