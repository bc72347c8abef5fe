# SPDX-License-Identifier: Apache-2.0
"""An expert in plain Python, from section 9 of docs/protocol.md: slow, and easy to believe."""

import math
from array import array

MASK = (1 << 64) - 1
GOLDEN = 0x9e3779b97f4a7c15
RELU, GELU, SWIGLU = 1, 2, 3
F32, F64 = 1, 2
SGD, ADAMW = 1, 2


def typecode(shape):
    return "f" if shape.dtype == F32 else "d"


def reals(shape, data):
    """Raw bytes as a list of numbers."""
    return list(array(typecode(shape), data))


def raw(shape, numbers):
    """Numbers as raw bytes of the layer's real."""
    return array(typecode(shape), numbers).tobytes()


def real_bytes(shape):
    return 4 if shape.dtype == F32 else 8


def matrices(shape):
    return 3 if shape.activation == SWIGLU else 2


def n_params(shape):
    d, h = shape.d_model, shape.d_ff
    return matrices(shape) * h * d + h + d


# ---- initial weights ----

def mix(x):
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & MASK
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & MASK
    return x ^ (x >> 31)


def rotate(x, n):
    return ((x << n) | (x >> (64 - n))) & MASK


def exact_log(q):
    f, k = math.frexp(q)
    f, k = 2 * f, k - 1
    if f > 1.4142135623730951:
        f, k = f / 2, k + 1
    f -= 1
    s = f / (2 + f)
    z = s * s
    p = 1 / 21
    for n in range(19, 1, -2):
        p = p * z + 1 / n
    r = 2 * z * p
    return k * 6.93147180369123816490e-01 - ((s * (f - r) - k * 1.90821492927058770002e-10) - f)


class Normal:
    def __init__(self, seed, expert):
        x = seed ^ mix(expert)
        self.s = [mix((x + i * GOLDEN) & MASK) for i in range(4)]

    def next(self):
        s = self.s
        r = (rotate((s[1] * 5) & MASK, 7) * 9) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 45)
        return r

    def unit(self):
        return (self.next() >> 11) * 2.0 ** -53

    def __call__(self):
        while True:
            u = 2 * self.unit() - 1
            v = 2 * self.unit() - 1
            q = u * u + v * v
            if 0 < q < 1:
                return u * math.sqrt(-2 * exact_log(q) / q)


def initial(shape, expert):
    d, h = shape.d_model, shape.d_ff
    normal = Normal(shape.seed, expert)
    theta = [normal() * math.sqrt(2 / d) for _ in range((matrices(shape) - 1) * h * d)]
    theta += [0.0 if shape.zero_output else normal() * math.sqrt(1 / h) for _ in range(h * d)]
    return theta + [0.0] * (h + d)


# ---- an expert ----

class Expert:
    """Parameters `theta`, moments and the gradient sum, each in the layout of section 9.

    Kept in the layer's real, computed in double."""

    def __init__(self, shape, number):
        self.shape = shape
        self.code = typecode(shape)
        n, d, h = n_params(shape), shape.d_model, shape.d_ff
        self.theta = array(self.code, initial(shape, number))
        self.moments = [array(self.code, bytes(n * self.theta.itemsize))
                        for _ in range(1 if shape.optimizer == SGD else 2)]
        self.gradient = [0.0] * n
        self.gate_at = h * d
        self.out_at = (matrices(shape) - 1) * h * d
        self.bias_in_at = self.out_at + h * d
        self.bias_out_at = self.bias_in_at + h

    def hidden(self, x, j):
        """u, g, a of hidden unit j, and da/du, da/dg."""
        d, theta = self.shape.d_model, self.theta
        u = sum(theta[j * d + i] * x[i] for i in range(d)) + theta[self.bias_in_at + j]
        if self.shape.activation == RELU:
            return max(u, 0.0), 1.0 if u > 0 else 0.0, 0.0
        if self.shape.activation == GELU:
            phi = 0.5 * (1 + math.erf(u / math.sqrt(2)))
            return u * phi, phi + u * math.exp(-u * u / 2) / math.sqrt(2 * math.pi), 0.0
        s = 1 / (1 + math.exp(-u))
        g = sum(theta[self.gate_at + j * d + i] * x[i] for i in range(d))
        return u * s * g, g * s * (1 + u * (1 - s)), u * s

    def forward(self, x):
        """One row."""
        d, h, theta = self.shape.d_model, self.shape.d_ff, self.theta
        a = [self.hidden(x, j)[0] for j in range(h)]
        return [theta[self.bias_out_at + i] +
                sum(a[j] * theta[self.out_at + j * d + i] for j in range(h)) for i in range(d)]

    def backward(self, x, dy):
        """dx of one row; the parameters' gradients are added to the sum."""
        d, h, theta, sums = self.shape.d_model, self.shape.d_ff, self.theta, self.gradient
        dx = [0.0] * d
        for j in range(h):
            a, slope, slope_gate = self.hidden(x, j)
            out = self.out_at + j * d
            da = sum(theta[out + i] * dy[i] for i in range(d))
            du, dg = da * slope, da * slope_gate
            sums[self.bias_in_at + j] += du
            for i in range(d):
                sums[out + i] += a * dy[i]
                sums[j * d + i] += du * x[i]
                dx[i] += theta[j * d + i] * du
                if self.shape.activation == SWIGLU:
                    sums[self.gate_at + j * d + i] += dg * x[i]
                    dx[i] += theta[self.gate_at + j * d + i] * dg
        for i in range(d):
            sums[self.bias_out_at + i] += dy[i]
        return dx

    def square_norm(self, divisor):
        norm = sum((g / divisor) ** 2 for g in self.gradient)
        return norm if norm <= 1e300 else -1.0  # false for NaN too

    def stepped(self, optimizer, scale, t):
        """(theta, moments) after the step of number t, gradients times `scale`."""
        o, rate, decay = optimizer, optimizer.learning_rate, optimizer.weight_decay
        theta, moments = self.theta[:], [m[:] for m in self.moments]
        for i, total in enumerate(self.gradient):
            g = total * scale
            if o.kind == SGD:
                moments[0][i] = o.momentum * moments[0][i] + g + decay * theta[i]
                theta[i] -= rate * moments[0][i]
                continue
            m, v = moments
            m[i] = o.beta1 * m[i] + (1 - o.beta1) * g
            v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g
            theta[i] = (1 - rate * decay) * theta[i] - rate / (1 - o.beta1 ** t) * m[i] / \
                (math.sqrt(v[i]) / math.sqrt(1 - o.beta2 ** t) + o.epsilon)
        return theta, moments

    def zero_gradient(self):
        self.gradient = [0.0] * len(self.gradient)

    def state(self, parts):
        """The raw part of an ExpertState."""
        out = self.theta.tobytes() if parts & 1 else b""
        if parts & 2:
            out += b"".join(m.tobytes() for m in self.moments)
        if parts & 4:
            out += array(self.code, self.gradient).tobytes()
        return out

    def set_state(self, data):
        """Weights and moments, as in ExpertStore."""
        n = len(self.theta.tobytes())
        vectors = [array(self.code, data[at:at + n]) for at in range(0, len(data), n)]
        self.theta, self.moments = vectors[0], vectors[1:]
        self.zero_gradient()

    def set_gradient(self, data):
        """The gradient sum, as in StepGradient."""
        self.gradient = list(array(self.code, data))
