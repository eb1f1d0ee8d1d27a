import jax
import optax
from deeptn_jax.nnx import TNLinear
from flax import nnx
from sklearn.datasets import load_digits

import deeptn as dtn

x, y = map(jax.numpy.asarray, load_digits(return_X_y=True))
x = x / 16
rngs = nnx.Rngs(0)
model = nnx.Sequential(TNLinear(64, 256, dtn.BrickWall(layers=2), rngs=rngs), nnx.relu, nnx.Linear(256, 10, rngs=rngs))
adam = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)


@nnx.jit
def step(model, adam):
    def loss(model):
        return optax.losses.softmax_cross_entropy_with_integer_labels(model(x[:1500]), y[:1500]).mean()

    adam.update(model, nnx.grad(loss)(model))


for _ in range(200):
    step(model, adam)
right = (model(x[1500:]).argmax(1) == y[1500:]).mean()
