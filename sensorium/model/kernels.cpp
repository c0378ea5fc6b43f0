// Parts of DwiseNeuro's core for inference on the CPU. Videos of a window are (rows, columns, frames, channels), so that
// all that one pixel needs lies together; the number of channels of a wide one is a multiple of 16. Numbers are stored as
// float32 or bfloat16, arithmetic is float32. No result depends on the number of threads. PIXELS is defined by whoever
// compiles this.
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr long INPUTS = 5;
constexpr long VECTORS = 128 / LANES;  // of channels, filtered together
constexpr long FEW = 1 << 15;          // numbers, for which a second thread costs more than it saves
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline Floats load(const uint16_t* from) {
    Halves x;
    std::memcpy(&x, from, sizeof x);
    return (Floats)(__builtin_convertvector(x, Words) << 16);
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline void store(uint16_t* to, Floats x) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    const auto half = _mm512_cvtneps_pbh((__m512)x);
#else
    const Words bits = (Words)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves half = __builtin_convertvector(x == x ? rounded : Words{} + 0x7fc0, Halves);
#endif
    std::memcpy(to, &half, sizeof half);
}

// 1 / x for normal x, relative error below 3e-7: an estimate of the processor and a step of Newton's method.
inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats estimate = (Floats)_mm512_rcp14_ps((__m512)x);
#elif defined(__AVX__)
    const Floats estimate = (Floats)_mm256_rcp_ps((__m256)x);
#else
    return 1.0f / x;
#endif
#ifdef __AVX__
    return estimate * (2.0f - x * estimate);
#endif
}

// x / (1 + exp(-x)), relative error below 1e-6 (1e-5 without fused multiply-adds), and 0 below -70, since what follows
// would reach denormal numbers, which are slow. exp is a power of two times a polynomial.
inline Floats silu(Floats x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    constexpr float SCALE = -1.44269504088896341f;
    const Floats limit = Floats{} + 70.0f;
    Floats y = x < limit ? x : limit;
    y = y > -limit ? y : -limit;
    const Floats shifted = y * SCALE + MAGIC;
    const Floats f = y * SCALE - (shifted - MAGIC);
    Floats p = f * 0.0013276466634124517f + 0.009675541892647743f;
    p = p * f + 0.05550713464617729f;
    p = p * f + 0.24022120237350464f;
    p = p * f + 0.6931469440460205f;
    p = p * f + 1.0f;
    const Floats factor = reciprocal((Floats)((Words)p + ((Words)shifted << 23)) + 1.0f);
    return x * (x < -limit ? Floats{} : factor);
}

// Rows `first` to `last` - 1 of the first block's wide video: SiLU of a map of the five inputs, plus `by_row` (rows,
// frames, channels) and `by_column` (columns, channels). x is (5, frames, rows, columns).
template <typename Number>
void widen(const float* x, const float* weight, const float* by_row, const float* by_column, Number* y, long first,
           long last, long frames, long rows, long columns, long channels, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) if ((last - first) * columns * frames * channels > FEW)
    for (long row = first; row < last; row++)
        for (long column = 0; column < columns; column++)
            for (long frame = 0; frame < frames; frame++) {
                float inputs[INPUTS];
                for (long i = 0; i < INPUTS; i++)
                    inputs[i] = x[((i * frames + frame) * rows + row) * columns + column];
                const float* along = by_row + (row * frames + frame) * channels;
                Number* to = y + (((row - first) * columns + column) * frames + frame) * channels;
                for (long c = 0; c < channels; c += LANES) {
                    Floats sum = load(along + c) + load(by_column + column * channels + c);
                    for (long i = 0; i < INPUTS; i++) sum += load(weight + i * channels + c) * inputs[i];
                    store(to + c, silu(sum));
                }
            }
}

// Bias and SiLU, in place.
template <typename Number>
void activate(Number* x, const float* bias, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads) if (pixels * channels > FEW)
    for (long pixel = 0; pixel < pixels; pixel++) {
        Number* at = x + pixel * channels;
        for (long c = 0; c < channels; c += LANES) store(at + c, silu(load(at + c) + load(bias + c)));
    }
}

// LANES channels of PIXELS outputs, side by side, of a filter of three rows and columns, added to `sums`: each input and
// weight is loaded once for all. `inputs` are the pixels of the three rows, whose channels begin at `offset`; the weights
// of two neighbours in the filter are `channels` numbers apart.
template <int STRIDE, typename Number>
inline void filter_row(const Number* const* inputs, long offset, const float* weight, long channels, Floats* sums) {
    constexpr int WIDTH = (PIXELS - 1) * STRIDE + 3;
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        Floats loaded[WIDTH];
        for (int j = 0; j < WIDTH; j++) loaded[j] = load(inputs[i * WIDTH + j] + offset);
        for (int j = 0; j < 3; j++) {
            const Floats w = load(weight + (i * 3 + j) * channels);
            for (int p = 0; p < PIXELS; p++) sums[p] += loaded[p * STRIDE + j] * w;
        }
    }
}

// The filter over frames, for some channels of a pixel, of TAPS frames, or of `length` where TAPS is 0. `between` are the
// results of the filter before it, (frames + length - 1, VECTORS). With `by_frame` set, sums are added to `total` (frames,
// channels) and y is not written; otherwise sums over all frames are added to `total` (channels).
template <int TAPS, typename Number>
inline void filter_frames(const Floats* between, const float* weight, const float* bias, Number* y, float* total,
                          long vectors, long frames, long channels, long length, long by_frame) {
    for (long v = 0; v < vectors; v++) {
        const long c = v * LANES;
        Floats weights[TAPS ? TAPS : 1], sum = Floats{};
        for (int k = 0; k < TAPS; k++) weights[k] = load(weight + k * channels + c);
        for (long frame = 0; frame < frames; frame++) {
            Floats result = load(bias + c);
            for (int k = 0; k < TAPS; k++) result += between[(frame + k) * VECTORS + v] * weights[k];
            if (!TAPS)
                for (long k = 0; k < length; k++)
                    result += between[(frame + k) * VECTORS + v] * load(weight + k * channels + c);
            result = silu(result);
            float* of_frame = total + frame * channels + c;
            if (by_frame)
                store(of_frame, load(of_frame) + result);
            else
                store(y + frame * channels + c, result);
            sum += result;
        }
        if (!by_frame) store(total + c, load(total + c) + sum);
    }
}

// Two depth-wise filters, each with bias and SiLU: over rows and columns of the wide video x, with zeros around the image,
// and over the frames of the result, with zeros before and after, which gives rows `first` to `last` - 1 of y. Of x, a
// row lies in the place of its number modulo `slots`. Each group of PIXELS outputs is added up in `sums` (rows, groups,
// frames, channels), zero before, or over the frames as well; where they are summed by frame, y is not written.
template <typename Number>
void filter(const Number* x, const float* space, const float* space_bias, const float* time, const float* time_bias,
            Number* y, float* sums, long first, long last, long frames, long rows, long columns, long channels,
            long slots, long side, long stride, long length, long by_frame, int threads) {
    const long across = (columns + stride - 1) / stride, groups = (across + PIXELS - 1) / PIXELS;
    const long padded = (frames + length - 1) * VECTORS, block = VECTORS * LANES;
    const std::vector<Number> zeros(frames * channels);
#pragma omp parallel num_threads(threads) if ((last - first) * across * frames * channels > FEW)
    {
        std::vector<Floats> between(PIXELS * padded);  // whose first and last frames stay zero
#pragma omp for collapse(2)
        for (long row = first; row < last; row++)
            for (long group = 0; group < groups; group++) {
                const long left = group * PIXELS, pixels = across - left < PIXELS ? across - left : PIXELS;
                const long width = (pixels - 1) * stride + side;
                const Number* inputs[side * width];
                for (long i = 0; i < side; i++)
                    for (long j = 0; j < width; j++) {
                        const long r = row * stride - side / 2 + i, c = left * stride - side / 2 + j;
                        const bool inside = r >= 0 && r < rows && c >= 0 && c < columns;
                        inputs[i * width + j] =
                            inside ? x + (r % slots * columns + c) * frames * channels : zeros.data();
                    }
                for (long begin = 0; begin < channels; begin += block) {
                    const long vectors = (channels - begin < block ? channels - begin : block) / LANES;
                    for (long frame = 0; frame < frames; frame++)
                        for (long v = 0; v < vectors; v++) {
                            const long c = begin + v * LANES, offset = frame * channels + c;
                            Floats results[PIXELS];
                            for (int p = 0; p < PIXELS; p++) results[p] = load(space_bias + c);
                            if (side == 3 && stride == 1 && pixels == PIXELS)
                                filter_row<1>(inputs, offset, space + c, channels, results);
                            else if (side == 3 && stride == 2 && pixels == PIXELS)
                                filter_row<2>(inputs, offset, space + c, channels, results);
                            else
                                for (long p = 0; p < pixels; p++)
                                    for (long k = 0; k < side * side; k++)
                                        results[p] += load(inputs[k / side * width + p * stride + k % side] + offset) *
                                                      load(space + k * channels + c);
                            for (long p = 0; p < pixels; p++)
                                between[p * padded + (length / 2 + frame) * VECTORS + v] = silu(results[p]);
                        }
                    for (long p = 0; p < pixels; p++) {
                        Number* to = y + (row * across + left + p) * frames * channels + begin;
                        float* total = sums + (row * groups + group) * (by_frame ? frames : 1) * channels + begin;
                        (length == 5 ? filter_frames<5, Number> : filter_frames<0, Number>)(
                            between.data() + p * padded, time + begin, time_bias + begin, to, total, vectors, frames,
                            channels, length, by_frame);
                    }
                }
            }
    }
}

inline float value(float x) { return x; }

inline float value(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

// A block's result y (rows, columns, frames, wide): the projection, which may lie in the same place, plus the block's input
// x at some of its rows and columns, with its channels repeated as often as there is room, scaled, plus `by_row` (rows,
// frames, wide) and `by_column` (columns, wide).
template <typename Number>
void shortcut(const float* x, const long* rows_of, const long* columns_of, const float* scale, const float* by_row,
              const float* by_column, const Number* projection, float* y, long width, long frames, long channels,
              long rows, long columns, long wide, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) if (rows * columns * frames * wide > FEW)
    for (long row = 0; row < rows; row++)
        for (long column = 0; column < columns; column++)
            for (long frame = 0; frame < frames; frame++) {
                const float* from = x + ((rows_of[row] * width + columns_of[column]) * frames + frame) * channels;
                for (long first = 0; first < wide; first += channels) {
                    const long count = wide - first < channels ? wide - first : channels;
                    const long at = ((row * columns + column) * frames + frame) * wide + first;
                    const float *along = by_row + (row * frames + frame) * wide + first, *times = scale + first;
                    const float* across = by_column + column * wide + first;
#pragma omp simd
                    for (long c = 0; c < count; c++)
                        y[at + c] = value(projection[at + c]) + (from[c] * times[c] + (along[c] + across[c]));
                }
            }
}

}  // namespace

#define EXPORT(NAME, NUMBER)                                                                                           \
    void widen_##NAME(const float* x, const float* weight, const float* by_row, const float* by_column, NUMBER* y,     \
                      long first, long last, long frames, long rows, long columns, long channels, int threads) {       \
        widen(x, weight, by_row, by_column, y, first, last, frames, rows, columns, channels, threads);                 \
    }                                                                                                                  \
    void activate_##NAME(NUMBER* x, const float* bias, long pixels, long channels, int threads) {                      \
        activate(x, bias, pixels, channels, threads);                                                                  \
    }                                                                                                                  \
    void filter_##NAME(const NUMBER* x, const float* space, const float* space_bias, const float* time,                \
                       const float* time_bias, NUMBER* y, float* sums, long first, long last, long frames, long rows,  \
                       long columns, long channels, long slots, long side, long stride, long length, long by_frame,    \
                       int threads) {                                                                                  \
        filter(x, space, space_bias, time, time_bias, y, sums, first, last, frames, rows, columns, channels, slots,    \
               side, stride, length, by_frame, threads);                                                               \
    }                                                                                                                  \
    void shortcut_##NAME(const float* x, const long* rows_of, const long* columns_of, const float* scale,              \
                         const float* by_row, const float* by_column, const NUMBER* projection, float* y, long width,  \
                         long frames, long channels, long rows, long columns, long wide, int threads) {                \
        shortcut(x, rows_of, columns_of, scale, by_row, by_column, projection, y, width, frames, channels, rows,       \
                 columns, wide, threads);                                                                              \
    }

extern "C" {
EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)
}
