"Package metadata, read from `settings.ini`."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extra = "_requirements"
minor = int(cfg["min_python"].split(".")[1])

# on PyPI no files stand beside the README: pictures and links lead to the repository
readme = Path("README.md").read_text(encoding="utf-8")
for before, kind in ((r"(!\[[^\]]*\]\()", "raw"), (r"(\]\()", "blob")):
    place = f"{cfg['git_url']}/{kind}/{cfg['branch']}/"
    readme = re.sub(before + "(?!https?:|#)", rf"\1{place}", readme)

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme,
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license_expression="Apache-2.0 AND CC-BY-3.0",      # the second for the clip in gwm_nb/data
    license_files=["LICENSE", "gwm_nb/data/LICENSE.txt"],
    keywords=cfg["keywords"],
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers",
                 "Intended Audience :: Science/Research", "Natural Language :: English",
                 "Operating System :: OS Independent", "Typing :: Typed",
                 "Topic :: Scientific/Engineering :: Image Recognition"]
                + [f"Programming Language :: Python :: 3.{m}" for m in range(minor, 15)],
    packages=find_packages(include=["gwm_nb", "gwm_nb.*"]),
    package_data={cfg["lib_name"]: ["py.typed", "presets/*.toml", "data/*", "data/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={k.removesuffix(extra): cfg[k].split() for k in cfg if k.endswith(extra)},
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
