from distopt.ray.checkpoints import report as report
from distopt.ray.checkpoints import restore as restore
from distopt.ray.group import Group as Group
from distopt.ray.group import init_group as init_group
from distopt.ray.trainer import DistoptTrainer as DistoptTrainer
