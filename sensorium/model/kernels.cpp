// Parts of DwiseNeuro's core for inference on the CPU. Videos of a window are (rows, columns, frames, channels), so that
// all that one pixel needs lies together; the number of channels of wide ones is a multiple of 16. Numbers are stored as
// float32 or bfloat16, arithmetic is float32. No result depends on the number of threads.
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
constexpr long FEW = 1 << 15;         // numbers of which one thread makes less work than a second one costs
constexpr long PIXELS = 4;            // of a row, filtered together; GROUP in kernels.py
constexpr long VECTORS = 128 / LANES;  // of channels, filtered together
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
    const Words bits = (Words)x;
    const Halves half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
#endif
    std::memcpy(to, &half, sizeof half);
}

// 1 / x for normal x, relative error below 2e-7: an estimate of the processor and a step of Newton's method.
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

// Rows `first` to `last` - 1 of the first block's wide video: SiLU of a map of the five inputs, plus what belongs to row
// and frame, and to the column. x is (5, frames, height, width).
template <typename Number>
void widen(const float* x, const float* weight, const float* by_row, const float* by_column, Number* y, long first,
           long last, long frames, long height, long width, long channels, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) if ((last - first) * width * frames * channels > FEW)
    for (long row = first; row < last; row++)
        for (long column = 0; column < width; column++)
            for (long frame = 0; frame < frames; frame++) {
                float inputs[INPUTS];
                for (long i = 0; i < INPUTS; i++)
                    inputs[i] = x[((i * frames + frame) * height + row) * width + column];
                const float* along = by_row + (row * frames + frame) * channels;
                Number* to = y + (((row - first) * width + column) * frames + frame) * channels;
                for (long c = 0; c < channels; c += LANES) {
                    Floats sum = load(along + c) + load(by_column + column * channels + c);
                    for (long i = 0; i < INPUTS; i++) sum += load(weight + i * channels + c) * inputs[i];
                    store(to + c, silu(sum));
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

// Bias and SiLU, in place.
template <typename Number>
void activate(Number* x, const float* bias, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads) if (pixels * channels > FEW)
    for (long pixel = 0; pixel < pixels; pixel++) {
        Number* at = x + pixel * channels;
        for (long c = 0; c < channels; c += LANES) store(at + c, silu(load(at + c) + load(bias + c)));
    }
}

// LANES channels of PIXELS outputs of a filter of three rows and columns: each input and weight is loaded once for all.
template <int STRIDE, typename Number>
inline void filter_row(const Number* const* taps, long at, const float* weight, long step, Floats* sums) {
    constexpr int WIDTH = (PIXELS - 1) * STRIDE + 3;
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        Floats inputs[WIDTH];
        for (int j = 0; j < WIDTH; j++) inputs[j] = load(taps[i * WIDTH + j] + at);
        for (int j = 0; j < 3; j++) {
            const Floats w = load(weight + (i * 3 + j) * step);
            for (int p = 0; p < PIXELS; p++) sums[p] += inputs[p * STRIDE + j] * w;
        }
    }
}

// The filter over frames of the results `between` of the one over rows and columns, (frames + TAPS - 1, VECTORS), for
// some channels of a pixel. Sums go to `total`, which has `by_frame` numbers from frame to frame.
template <int TAPS, typename Number>
inline void filter_frames(const Floats (*between)[VECTORS], const float* weight, const float* bias, Number* y,
                          float* total, long vectors, long frames, long channels, long length, long by_frame) {
    for (long v = 0; v < vectors; v++) {
        const long c = v * LANES;
        Floats weights[TAPS ? TAPS : 1], sum = Floats{};
        for (int k = 0; k < TAPS; k++) weights[k] = load(weight + k * channels + c);
        for (long frame = 0; frame < frames; frame++) {
            Floats result = load(bias + c);
            for (int k = 0; k < TAPS; k++) result += between[frame + k][v] * weights[k];
            if (!TAPS)
                for (long k = 0; k < length; k++)
                    result += between[frame + k][v] * load(weight + k * channels + c);
            result = silu(result);
            if (by_frame)
                store(total + frame * by_frame + c, load(total + frame * by_frame + c) + result);
            else
                store(y + frame * channels + c, result);
            sum += result;
        }
        if (!by_frame) store(total + c, load(total + c) + sum);
    }
}

// Two depth-wise filters, each with bias and SiLU: over rows and columns of the wide video x, with zeros around the image,
// and over the frames of the result, with zeros before and after, which gives rows `first` to `last` - 1 of y. Of x, row
// v lies in place v modulo `slots`. Each group of PIXELS outputs is added up in `sums` (rows, groups, frames, channels),
// zero before, or over the frames as well; where they are summed by frame, y is not written.
template <typename Number>
void filter(const Number* x, const float* space, const float* space_bias, const float* time, const float* time_bias,
            Number* y, float* sums, long first, long last, long frames, long height, long width, long channels,
            long slots, long side, long stride, long length, long by_frame, int threads) {
    const long columns = (width + stride - 1) / stride, groups = (columns + PIXELS - 1) / PIXELS;
    const long padded = frames + length - 1, block = VECTORS * LANES;
    const std::vector<Number> zeros(frames * channels);
#pragma omp parallel for collapse(2) num_threads(threads) if ((last - first) * columns * frames * channels > FEW)
    for (long row = first; row < last; row++)
        for (long group = 0; group < groups; group++) {
            const long left = group * PIXELS, pixels = columns - left < PIXELS ? columns - left : PIXELS;
            const long across = (pixels - 1) * stride + side;
            const Number* inputs[side * across];
            for (long i = 0; i < side; i++)
                for (long j = 0; j < across; j++) {
                    const long v = row * stride - side / 2 + i, h = left * stride - side / 2 + j;
                    const bool inside = v >= 0 && v < height && h >= 0 && h < width;
                    inputs[i * across + j] = inside ? x + (v % slots * width + h) * frames * channels : zeros.data();
                }
            Floats between[PIXELS * padded][VECTORS];
            std::memset(between, 0, sizeof between);
            for (long begin = 0; begin < channels; begin += block) {
                const long vectors = (channels - begin < block ? channels - begin : block) / LANES;
                for (long frame = 0; frame < frames; frame++)
                    for (long v = 0; v < vectors; v++) {
                        const long c = begin + v * LANES, at = frame * channels + c;
                        Floats results[PIXELS];
                        for (int p = 0; p < PIXELS; p++) results[p] = load(space_bias + c);
                        if (side == 3 && stride == 1 && pixels == PIXELS)
                            filter_row<1>(inputs, at, space + c, channels, results);
                        else if (side == 3 && stride == 2 && pixels == PIXELS)
                            filter_row<2>(inputs, at, space + c, channels, results);
                        else
                            for (long p = 0; p < pixels; p++)
                                for (long k = 0; k < side * side; k++)
                                    results[p] += load(inputs[k / side * across + p * stride + k % side] + at) *
                                                  load(space + k * channels + c);
                        for (int p = 0; p < PIXELS; p++)
                            between[p * padded + length / 2 + frame][v] = silu(results[p]);
                    }
                for (long p = 0; p < pixels; p++) {
                    Number* to = y + (row * columns + left + p) * frames * channels + begin;
                    float* total = sums + (row * groups + group) * (by_frame ? frames : 1) * channels + begin;
                    const auto run = length == 5 ? filter_frames<5, Number> : filter_frames<0, Number>;
                    run(between + p * padded, time + begin, time_bias + begin, to, total, vectors, frames, channels,
                        length, by_frame ? channels : 0);
                }
            }
        }
}

// A block's result y: its input x at the rows and columns of the smaller image, with its channels repeated as often as y
// has room for, scaled, plus what belongs to row and frame, and to the column, plus the projection (may be null).
template <typename Number>
void shortcut(const float* x, const long* rows_of, const long* columns_of, const float* scale, const float* by_row,
              const float* by_column, const Number* projection, float* y, long width, long frames, long channels,
              long rows, long columns, long wide, int threads) {
#pragma omp parallel for collapse(2) num_threads(threads) if (rows * columns * frames * wide > FEW)
    for (long row = 0; row < rows; row++)
        for (long column = 0; column < columns; column++)
            for (long frame = 0; frame < frames; frame++) {
                const float* from = x + ((rows_of[row] * width + columns_of[column]) * frames + frame) * channels;
                const long at = ((row * columns + column) * frames + frame) * wide;
                for (long first = 0; first < wide; first += channels) {
                    const long count = wide - first < channels ? wide - first : channels;
                    const float *along = by_row + (row * frames + frame) * wide + first, *times = scale + first;
                    const float* across = by_column + column * wide + first;
                    const Number* added = projection + at + first;
                    float* to = y + at + first;
                    if (projection)
#pragma omp simd
                        for (long c = 0; c < count; c++)
                            to[c] = value(added[c]) + (from[c] * times[c] + (along[c] + across[c]));
                    else
#pragma omp simd
                        for (long c = 0; c < count; c++) to[c] = from[c] * times[c] + (along[c] + across[c]);
                }
            }
}

}  // namespace

#define EXPORT(NAME, NUMBER)                                                                                           \
    void widen_##NAME(const float* x, const float* w, const float* by_row, const float* by_column, NUMBER* y,          \
                      long first, long last, long f, long h, long v, long c, int t) {                                  \
        widen(x, w, by_row, by_column, y, first, last, f, h, v, c, t);                                                 \
    }                                                                                                                  \
    void activate_##NAME(NUMBER* x, const float* b, long n, long c, int t) { activate(x, b, n, c, t); }                \
    void filter_##NAME(const NUMBER* x, const float* space, const float* space_bias, const float* time,                \
                       const float* time_bias, NUMBER* y, float* sums, long first, long last, long f, long h, long v,  \
                       long c, long slots, long side, long stride, long length, long by_frame, int t) {                \
        filter(x, space, space_bias, time, time_bias, y, sums, first, last, f, h, v, c, slots, side, stride, length,   \
               by_frame, t);                                                                                           \
    }                                                                                                                  \
    void shortcut_##NAME(const float* x, const long* rows_of, const long* columns_of, const float* scale,              \
                         const float* by_row, const float* by_column, const NUMBER* projection, float* y, long v,      \
                         long f, long c, long rows, long columns, long wide, int t) {                                  \
        shortcut(x, rows_of, columns_of, scale, by_row, by_column, projection, y, v, f, c, rows, columns, wide, t);    \
    }

extern "C" {
EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)
}
