/* Sizes of register tiles, for the vectors of vectors.h, and what else the loops around them go by. */
#ifndef DWCPU_TILE_H
#define DWCPU_TILE_H

#include "lanes.h"

/* Register tiles. GEMM: rows of pixels x vectors of output channels, as many as leave room for one row of weights and
   one splat input. Depthwise windows: output rows x columns; eight accumulators keep two multiply-add units of four
   cycles busy, and leave 16 registers room for a weight and seven inputs. */
#if DWCPU_VECTOR_BYTES == 64
#define GEMM_VECTORS 3
#define TILE_ROWS(vectors) ((vectors) < 3 ? 14 : (vectors) == 3 ? 9 : 6)
#elif defined(V_NEON)
#define GEMM_VECTORS 4
#define TILE_ROWS(vectors) ((vectors) == 1 ? 12 : 6)
#else
#define GEMM_VECTORS 2
#define TILE_ROWS(vectors) ((vectors) == 1 ? 9 : (vectors) == 2 ? 6 : 4)
#endif
/* Whether a tile's sums, weights and input are 16 registers. GCC spills then, as soon as what follows the sum looks
   different to it; a vector of weights that stays in memory leaves it one. */
#if defined(V_AVX512) || defined(V_NEON)
#define IS_SHORT_OF_REGISTERS 0
#else
#define IS_SHORT_OF_REGISTERS 1
#endif
#define IS_FULL(rows, vectors) (IS_SHORT_OF_REGISTERS && ((rows) + 1) * (vectors) + 1 == 16)
/* Panels have GEMM_VECTORS vectors, the last one what is left, but not one alone: it has one more than others then. (With
   16 registers a panel of one has tiles of 9 rows, which take 0.94 of the time of 12, since loads then count most.) With
   32 registers three vectors and nine rows load 0.44 times for each multiply-add, two and fourteen 0.57: what the two
   threads of a core share are loads, and beside a busy neighbour they take 0.93 of the time, on a quiet core as long. */
#define MOST_VECTORS (GEMM_VECTORS == 4 ? 4 : GEMM_VECTORS + 1)
/* Rows of tiles of two and three vectors on CPUs that compute vectors of 64 bytes in two turns (v_in_two_turns), whose
   panels have SHORT_VECTORS: what 14 write at their end is more than waits for its turn without holding up multiply-adds,
   which seven keep as busy. Products take 0.92 (8 inputs), 0.96 (24) to 0.995 (512) of the time. There it is the
   multiply-adds that splat inputs, but for two rows: of seven these are two loads for a multiply-add of both vectors, and
   clamps run beside them; where an instruction splats, both wait. (Elsewhere an instruction is better: 0.78 to 0.9 of the
   time beside a busy neighbour.) 0: no such CPUs. */
#define SHORT_ROWS (DWCPU_VECTOR_BYTES == 64 ? TWO_TURN_ROWS : 0)
#define SHORT_VECTORS 2
#define SUMS (DWCPU_DOUBLE ? 16 : 32) /* parts of a sum along a row, of which every vector has a whole number */
#define LEAST_SUMS 8 /* in flight, that keep two multiply-add units of four cycles busy */
#define ROWS_LIMIT 14 /* of any tile of any instruction set */
#define PIXEL_PANELS 4 /* panels that are computed together for a single pixel */
#define PIXEL_AHEAD 256 /* weights that are asked for ahead there, in each panel */
#define ACTIVATION_TILES 8 /* tiles between second passes */
#define ANY_RUNS 0 /* what a tile knows of the runs of its sum (gemm.pxi) */
#define ONE_RUN 1
#define WHOLE_RUN 2
#define HALF_RUN 3
#define COLOUR_RUN 9
#define HALF_RUNS 4
#define JOINED_RUNS 5
#define LINE (int)(64 / sizeof(real))
#define MOST_HELD (HELD_BYTES / DWCPU_VECTOR_BYTES) /* channel vectors of a pass of strips */
#define AHEAD_LINES(rows, vectors) /* that a turn asks for: as many inputs as it takes, or its share of a panel */ \
    ((((rows) * TURN > (vectors) * LANES ? (rows) * TURN : (vectors) * LANES) + LINE - 1) / LINE)
#define NEVER ((const real *)UINTPTR_MAX) /* an end that is not reached */
/* Whether registers keep the weights of as many rows of a window as a row of inputs meets, so that each input of a tile is
   loaded once. It takes 32 of them. */
#define KEEPS_WEIGHTS(size, stride, columns) (DWCPU_VECTOR_BYTES == 64 && \
    ((stride) == 1 || (size) == 5 || ((size) == 3 && (columns) > WINDOW_COLUMNS)))
#define WINDOW_ROWS 2
#define WINDOW_COLUMNS 4
/* Tiles of few channels, several pixels to a vector: four rows where sums of four times four vectors leave registers. */
#define FLAT_ROWS (DWCPU_VECTOR_BYTES == 64 ? 4 : 2)
#define FLAT_ROWS_LIMIT 4
#define MOST_PHASES 16 /* of the columns of a dilated window: of more, each is computed anew */
#define MOST_PATCH_ROWS 9 /* of the inputs of a tile: 7x7, stride 2 */
#define MOST_PATCH_COLUMNS 13 /* inputs side by side of one, of WINDOW_COLUMNS outputs */
/* Whether registers hold tiles of large windows, which are four rows of four columns. It takes 32 of them. */
#define HOLDS_TILES (DWCPU_VECTOR_BYTES == 64)
_Static_assert(HELD_ROWS == 4 && HELD_COLUMNS == 4, "held_tiles.pxi is written for these");
#define PAIRED (DWCPU_VECTOR_BYTES < 64) /* whether vectors share cache lines */
#define COPY_VECTORS (COPY_BYTES / DWCPU_VECTOR_BYTES)

#endif
