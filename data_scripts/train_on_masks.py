"Train a network on masks that `gwm_segment FOLDER` has written, and measure it on other clips."
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from gwm_nb.checkpoints import save
from gwm_nb.commands import command
from gwm_nb.evaluate import jaccard
from gwm_nb.files import cache_folder, find_below, find_clips, list_images, read_image, read_mask
from gwm_nb.flow import resize
from gwm_nb.network import create_network, predict_masks
from gwm_nb.paper import cache_features, fingerprint
from gwm_nb.store import shrink
from gwm_nb.train import fit

SIZE = 256, 448 # (height, width) of the images that the network sees


class MaskedFrames(Dataset):
    "Frames whose teacher, in the place of flow, is a mask (1,h,w): `{image, flow, name}`."
    def __init__(self, clips, masks):
        files = [(frame, find_below(masks, clip.name)/f'{frame.stem}.png')
                 for clip in clips for frame in list_images(clip.path)]
        self.names = [str(frame) for frame, _ in files]
        self.images = [(shrink(read_image(frame), SIZE) * 255).round().byte() for frame, _ in files]
        self.masks = [resize(read_mask(mask)[None].float(), (SIZE[0] // 2, SIZE[1] // 2), True)
                      for _, mask in files]

    def __len__(self): return len(self.names)

    def __getitem__(self, i):
        return dict(image=self.images[i] / 255, flow=self.masks[i], name=self.names[i])


def mask_loss(logits, masks):
    "Cross-entropy of background and object (B,2,h,w) given masks (B,1,h,w), and 1 - soft IoU."
    masks = resize(masks, logits.shape[-2:])
    target, p = torch.cat([1 - masks, masks], 1), logits.softmax(1)[:, 1:]
    common, union = (x.sum((1, 2, 3)) + 1 for x in (p * masks, p + masks - p * masks))
    return F.cross_entropy(logits, target) + 1 - (common / union).mean()


def score_network(network, clip):
    "Mean J over the frames of an annotated clip."
    images = (shrink(read_image(file), SIZE) for file in list_images(clip.path))
    soft, scores = predict_masks(network, images), []
    for mask, file in zip(soft[:, 1:], list_images(clip.masks), strict=True):
        truth = read_mask(file) > 0
        scores.append(jaccard(resize(mask, truth.shape)[0] > .5, truth).item())
    return sum(scores) / len(scores)


@command(held_out=dict(nargs='*'))
def train_on_masks(data: str, # a prepared data set: JPEGImages and Annotations in it
                  masks: str, # what `gwm_segment` has written: masks NAME/FRAME.png
                  out: str, # file of the network, .safetensors, for `gwm_segment --from`
                  held_out: str = (), # clips that are not trained on, but measured
                  steps: int = 400, # of the optimiser
                  seed: int = 0): # of weights and order
    "Train a decoder of two masks on the frozen EfficientNet-Lite0. Annotations only measure."
    torch.manual_seed(seed)
    clips = find_clips(data)
    frames = MaskedFrames([clip for clip in clips if clip.name not in held_out], masks)
    network = create_network('efficientnet_lite0', 2, 'offline', stride=4)
    kept = cache_folder()/'features'/fingerprint(network.backbone)
    cache_features(network, kept, frames, flips=False)
    fit(frames, network, loss=mask_loss, steps=steps, lr=2e-3, seed=seed, augment=())
    save(network, out, config=dict(data=dict(size=list(SIZE))))
    scores = {c.name: score_network(network, c) for c in clips if c.name in held_out}
    for name, J in scores.items(): print(f'{name:20} J {J:.3f}')
    if scores: print(f'mean of {len(scores)} clips: J {sum(scores.values()) / len(scores):.3f}')


if __name__ == '__main__': train_on_masks()
