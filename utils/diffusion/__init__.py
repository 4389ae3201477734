from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.unet import UNet
