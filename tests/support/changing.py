"""A network with tensors of every kind, and what may change in it between two images."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fewstep import Engine


class ManyKinds(nn.Module):
    """Weights large and small, tied, channels last, made in inference mode, in buffers, and in no module at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 64, 3, padding=1).to(memory_format=torch.channels_last)
        self.norm = nn.GroupNorm(8, 64)
        self.batch_norm = nn.BatchNorm2d(64)
        self.wide = nn.Conv2d(64, 64, 1)
        self.tied = nn.Conv2d(64, 64, 1)
        self.tied.weight = self.wide.weight
        self.out = nn.Sequential(nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(64, 3, 3, padding=1))
        self.embedding = nn.Embedding(11, 64)
        self.register_buffer("scale", torch.ones(64, 1, 1))
        self.register_buffer("nothing", torch.empty(0))
        self.offset = torch.zeros(64, 1, 1)
        self.gain, self.scales = 1.0, {"a": [1.0]}
        with torch.inference_mode():
            self.frozen = nn.Parameter(torch.ones(64, 1, 1), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        h = self.norm(self.conv(x)) + t[:, None, None, None].to(x.dtype) / 1000
        h = self.tied(self.wide(h + self.embedding(labels)[:, :, None, None]))
        h = self.batch_norm(h) * self.scale * self.frozen * (self.gain * self.scales["a"][0]) + self.offset
        answer: Tensor = self.out(h)
        return answer


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def new_weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor + 0.1 for name, tensor in net.state_dict().items() if not tensor.is_inference()}


def stepped(optimizer: Callable[..., torch.optim.Optimizer]) -> Callable[[Any, Engine], None]:
    def change(net: Any, engine: Engine) -> None:
        weights = [weight for weight in net.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer(weights, lr=0.1).step()

    return change


def assigned(net: Any, engine: Engine) -> None:
    net.conv.weight.data = 2 * net.conv.weight.data


def averaged(net: Any, engine: Engine) -> None:
    average = EMAModel(net.parameters())
    average.shadow_params = [weight + 0.1 for weight in average.shadow_params]
    average.copy_to(net.parameters())


def written_in_inference_mode(net: Any, engine: Engine) -> None:
    with torch.inference_mode():
        net.wide.weight.mul_(1.5)
        net.frozen.mul_(1.5)


def written_where_inference_made_it(net: Any, engine: Engine) -> None:
    with torch.inference_mode():
        net.frozen[3] = 2


def written(net: Any, engine: Engine) -> None:
    with torch.no_grad():
        net.wide.weight[7, 7] += 1


def hooked(net: Any, engine: Engine) -> None:
    net.norm.register_forward_hook(lambda part, inputs, answer: 2 * answer)


def hooked_before(net: Any, engine: Engine) -> None:
    net.norm.register_forward_pre_hook(lambda part, inputs: (inputs[0] ** 2,))


def hooked_whole(net: Any, engine: Engine) -> None:
    net.register_forward_hook(lambda part, inputs, answer: 2 * answer)


def exchanged(net: Any, engine: Engine) -> None:
    engine.module.out[0] = nn.Tanh()


def other_code(net: Any, engine: Engine) -> None:
    part: Any = engine.module.norm
    part.forward = lambda h: 2 * nn.GroupNorm.forward(part, h)


def of_another_class(net: Any, engine: Engine) -> None:
    engine.module.out[0].__class__ = nn.Tanh


def new_buffer(net: Any, engine: Engine) -> None:
    net.scale = torch.full((64, 1, 1), 2.0)


CHANGES: dict[str, Callable[[Any, Engine], Any]] = {
    "one weight in place": written,
    "through .data": lambda net, engine: net.conv.weight.data.mul_(2),
    ".data assigned": assigned,
    "weight exchanged": lambda net, engine: setattr(net.conv, "weight", nn.Parameter(2 * net.conv.weight)),
    "tied weight": lambda net, engine: net.tied.weight.data.mul_(2),
    "in inference mode": written_in_inference_mode,
    "what inference mode made": written_where_inference_made_it,
    "by numpy": lambda net, engine: net.wide.weight.detach().numpy().__imul__(2),
    "one value of a small weight by numpy": lambda net, engine: net.norm.bias.detach().numpy().put(17, 5),
    "SGD": stepped(torch.optim.SGD),
    "Adam, foreach": stepped(lambda weights, lr: torch.optim.Adam(weights, lr, foreach=True)),
    "AdamW, fused": stepped(lambda weights, lr: torch.optim.AdamW(weights, lr, fused=True)),
    "EMA of diffusers": averaged,
    "load_state_dict": lambda net, engine: net.load_state_dict(new_weights(net), strict=False),
    "load_state_dict, assign": lambda net, engine: net.load_state_dict(new_weights(net), False, assign=True),
    "running mean": lambda net, engine: net.batch_norm.running_mean.add_(1),
    "running mean through .data": lambda net, engine: net.batch_norm.running_mean.data.add_(1),
    "buffer exchanged": new_buffer,
    "tensor that is no buffer": lambda net, engine: net.offset.add_(1),
    "and another": lambda net, engine: setattr(engine.module, "offset", torch.ones(64, 1, 1)),
    "number": lambda net, engine: setattr(engine.module, "gain", 2.0),
    "number in a list in a dict": lambda net, engine: net.scales["a"].__setitem__(0, 2.0),
    "dict of another": lambda net, engine: net.scales.update(a=[2.0]),
    "eps of a norm": lambda net, engine: setattr(engine.module.norm, "eps", 1.0),
    "groups of a norm": lambda net, engine: setattr(engine.module.norm, "num_groups", 1),
    "mode of a norm": lambda net, engine: engine.module.batch_norm.train(),
    "part exchanged": exchanged,
    "part of another class": of_another_class,
    "code of a part": other_code,
    "parametrized": lambda net, engine: parametrize.register_parametrization(engine.module.wide, "weight", Halved()),
    "hook": hooked,
    "hook before": hooked_before,
    "hook on the whole": hooked_whole,
}
