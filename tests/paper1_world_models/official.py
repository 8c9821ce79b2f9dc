"""Carries weights of the official TensorFlow MDN-RNN over to torch."""

import numpy as np
import torch


def load_official_weights(model: torch.nn.Module, arrays: dict[str, np.ndarray], prefix: str = "param.") -> None:
    """Copy the weights of a golden file into an MDNRNN.

    TensorFlow's LSTM keeps one kernel (input + hidden, 4 * hidden) for input and state, orders its gates i, j, f, o,
    and adds 1 to the forget gate before the sigmoid; torch keeps two kernels (4 * hidden, ...) and two biases, and
    orders i, f, g, o, where g is TensorFlow's j.
    """
    tensors = {name.removeprefix(prefix): torch.as_tensor(array) for name, array in arrays.items()}
    i, j, f, o = tensors["kernel"].T.chunk(4)
    kernel = torch.cat([i, f, j, o])
    i, j, f, o = tensors["bias"].chunk(4)
    bias = torch.cat([i, f + 1, j, o])
    inputs = model.lstm.input_size
    with torch.no_grad():
        model.lstm.weight_ih_l0.copy_(kernel[:, :inputs])
        model.lstm.weight_hh_l0.copy_(kernel[:, inputs:])
        model.lstm.bias_ih_l0.copy_(bias)
        model.lstm.bias_hh_l0.zero_()
        model.out.weight.copy_(tensors["output_w"].T)
        model.out.bias.copy_(tensors["output_b"])
