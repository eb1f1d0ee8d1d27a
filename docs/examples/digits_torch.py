import torch
from deeptn_torch import TNLinear
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import deeptn as dtn

x, y = map(torch.tensor, load_digits(return_X_y=True))
x = x.float() / 16
wall = dtn.BrickWall(layers=2)
model = nn.Sequential(TNLinear(64, 256, wall), nn.ReLU(), nn.Linear(256, 10))
adam = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    adam.zero_grad()
    loss = cross_entropy(model(x[:1500]), y[:1500])
    loss.backward()
    adam.step()
right = (model(x[1500:]).argmax(1) == y[1500:]).float().mean()
