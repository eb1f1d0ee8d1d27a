import equinox as eqx
import jax
import optax
from deeptn_jax.equinox import TNLinear
from sklearn.datasets import load_digits

import deeptn as dtn

x, y = map(jax.numpy.asarray, load_digits(return_X_y=True))
x, keys = x / 16, jax.random.split(jax.random.key(0))
first = TNLinear(64, 256, dtn.BrickWall(layers=2), key=keys[0])
relu, last = eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(256, 10, key=keys[1])
model = eqx.nn.Sequential([first, relu, last])
entropy = optax.losses.softmax_cross_entropy_with_integer_labels
adam = optax.adam(0.01)
state = adam.init(eqx.filter(model, eqx.is_array))
loss = lambda m: entropy(jax.vmap(m)(x[:1500]), y[:1500]).mean()
gradient = eqx.filter_jit(eqx.filter_grad(loss))
for _ in range(200):
    updates, state = adam.update(gradient(model), state)
    model = eqx.apply_updates(model, updates)
right = (jax.vmap(model)(x[1500:]).argmax(1) == y[1500:]).mean()
