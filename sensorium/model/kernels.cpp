// Parts of DwiseNeuro's core for inference on the CPU. Videos are (windows, frames, rows, columns, channels), images
// (images, rows, columns, channels); the number of channels is a multiple of 16. Numbers are stored as float32 or
// bfloat16, arithmetic is float32. No result depends on the number of threads.
#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr long INPUTS = 5;
constexpr long STRIP = 8;  // pixels of all frames of a window that lie in the cache together
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
    const Words bits = (Words)x;
    const Halves half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
    std::memcpy(to, &half, sizeof half);
}

// x / (1 + exp(-x)), relative error below 1e-6. exp is a power of two times a polynomial.
inline Floats silu(Floats x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    constexpr float SCALE = -1.44269504088896341f;
    const Floats limit = Floats{} + 87.0f;
    Floats y = x < limit ? x : limit;
    y = y > -limit ? y : -limit;
    const Floats shifted = y * SCALE + MAGIC;
    const Floats f = y * SCALE - (shifted - MAGIC);
    Floats p = f * 0.0013276466634124517f + 0.009675541892647743f;
    p = p * f + 0.05550713464617729f;
    p = p * f + 0.24022120237350464f;
    p = p * f + 0.6931469440460205f;
    p = p * f + 1.0f;
    return x / ((Floats)((Words)p + ((Words)shifted << 23)) + 1.0f);
}

// The first block's wide images: SiLU of a map of the five inputs, plus what belongs to the row and to the column.
// x is (windows, 5, frames, rows, columns), of which images `first` to `last` - 1 are taken.
template <typename Number>
void widen(const float* x, const float* weight, const float* by_row, const float* by_column, Number* y, long first,
           long last, long frames, long rows, long columns, long channels, int threads) {
    const long plane = frames * rows * columns;
#pragma omp parallel for num_threads(threads)
    for (long row = first * rows; row < last * rows; row++) {
        const long window = row / (frames * rows), place = row % (frames * rows);
        const float* from = x + window * INPUTS * plane + place * columns;
        const float* along = by_row + place * channels;
        for (long column = 0; column < columns; column++) {
            float inputs[INPUTS];
            for (long i = 0; i < INPUTS; i++) inputs[i] = from[i * plane + column];
            Number* to = y + ((row - first * rows) * columns + column) * channels;
            for (long c = 0; c < channels; c += LANES) {
                Floats sum = load(along + c) + load(by_column + column * channels + c);
                for (long i = 0; i < INPUTS; i++) sum += load(weight + i * channels + c) * inputs[i];
                store(to + c, silu(sum));
            }
        }
    }
}

// Bias and SiLU, in place.
template <typename Number>
void activate(Number* x, const float* bias, long pixels, long channels, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long pixel = 0; pixel < pixels; pixel++) {
        Number* at = x + pixel * channels;
        for (long c = 0; c < channels; c += LANES) store(at + c, silu(load(at + c) + load(bias + c)));
    }
}

// One pixel of a filter with TAPS taps, or with a number of them that is known only now.
template <int TAPS, typename Number>
inline void filter(const Number* const* taps, const float* const* weights, int count, const float* bias, Number* y,
                   long channels) {
    for (long c = 0; c < channels; c += LANES) {
        Floats sum = load(bias + c);
        for (int k = 0; k < (TAPS ? TAPS : count); k++) sum += load(taps[k] + c) * load(weights[k] + c);
        store(y + c, silu(sum));
    }
}

// Depth-wise filter over rows and columns, zeros around the image, bias, SiLU.
template <typename Number>
void space(const Number* x, const float* weight, const float* bias, Number* y, long images, long height, long width,
           long channels, long side, long stride, int threads) {
    const long rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride, pad = side / 2;
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < images * rows; row++) {
        const Number* image = x + row / rows * height * width * channels;
        const long top = row % rows * stride - pad;
        for (long column = 0; column < columns; column++) {
            const long left = column * stride - pad;
            const Number* taps[side * side];
            const float* weights[side * side];
            int count = 0;
            for (long i = top < 0 ? -top : 0; i < side && top + i < height; i++)
                for (long j = left < 0 ? -left : 0; j < side && left + j < width; j++) {
                    taps[count] = image + ((top + i) * width + left + j) * channels;
                    weights[count++] = weight + (i * side + j) * channels;
                }
            Number* to = y + (row * columns + column) * channels;
            if (count == 9)
                filter<9>(taps, weights, count, bias, to, channels);
            else
                filter<0>(taps, weights, count, bias, to, channels);
        }
    }
}

// Depth-wise filter over frames, zeros before and after the window, bias, SiLU; y may be null. The pixels of each row are
// added up as well: sums is (windows, rows, frames, channels), zero before.
template <typename Number>
void time(const Number* x, const float* weight, const float* bias, Number* y, float* sums, long windows, long frames,
          long rows, long columns, long channels, long length, int threads) {
    const long image = rows * columns * channels, pad = length / 2;
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < windows * rows; row++) {
        const long start = row / rows * frames * image + row % rows * columns * channels;
        for (long left = 0; left < columns; left += STRIP) {
            const long right = left + STRIP < columns ? left + STRIP : columns;
            for (long frame = 0; frame < frames; frame++) {
                const long first = frame < pad ? pad - frame : 0;
                const long last = frames - frame + pad < length ? frames - frame + pad : length;
                float* total = sums + (row * frames + frame) * channels;
                for (long column = left; column < right; column++) {
                    const long at = start + frame * image + column * channels;
                    for (long c = 0; c < channels; c += LANES) {
                        Floats sum = load(bias + c);
                        for (long k = first; k < last; k++)
                            sum += load(x + at + (k - pad) * image + c) * load(weight + k * channels + c);
                        sum = silu(sum);
                        if (y) store(y + at + c, sum);
                        store(total + c, load(total + c) + sum);
                    }
                }
            }
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
    void space_##NAME(const NUMBER* x, const float* w, const float* b, NUMBER* y, long n, long h, long v, long c,      \
                      long k, long s, int t) {                                                                         \
        space(x, w, b, y, n, h, v, c, k, s, t);                                                                        \
    }                                                                                                                  \
    void time_##NAME(const NUMBER* x, const float* w, const float* b, NUMBER* y, float* sums, long n, long f, long h,  \
                     long v, long c, long k, int t) {                                                                  \
        time(x, w, b, y, sums, n, f, h, v, c, k, t);                                                                   \
    }

extern "C" {
EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)
}
