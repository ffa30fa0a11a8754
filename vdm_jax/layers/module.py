"""A linen module that takes its parameters bare, as all of this library holds them."""

import flax.linen as nn


class Module(nn.Module):
  """nn.Module whose `apply` takes {"params": params} or the nested dict itself."""

  @nn.nowrap
  def apply(self, variables, *args, **kwargs):
    """As linen's; `variables` may be the parameters alone."""
    if "params" not in variables:
      variables = {"params": variables}
    return super().apply(variables, *args, **kwargs)
