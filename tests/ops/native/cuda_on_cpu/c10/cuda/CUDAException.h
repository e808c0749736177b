#include "CUDAStream.h"
