"Prepare the test images of Oxford 102 Flowers with their masks."
import io

import cv2
import numpy as np
from scipy.io import loadmat

from _prepare import by_name, command, decode, encode_mask, find, plan_pairs, prepare

TEST_IMAGES = 1020
BLUE = 254, 0, 0        # of the background, in the order of OpenCV
NEAR = 24               # the masks are JPEG files: towards the flower the blue is not exact
ORIGIN = '102flowers.tgz, 102segmentations.tgz and setid.mat of https://www.robots.ox.ac.uk/~vgg/data/flowers/102/'
PUBLISHED = {name: (f'https://www.robots.ox.ac.uk/~vgg/data/flowers/102/{name}', md5) for name, md5 in {
    '102flowers.tgz': 'md5:52808999861908f626f3c1f4e79d11fa', '102segmentations.tgz': 'md5:51375996b6c4f367a4b9f4492d7ecef5',
    'setid.mat': 'md5:a5357ecc9cb78c4bef273ce3793fc85c'}.items()}


def not_blue(member):
    "The mask as PNG: everything but the blue background."
    return encode_mask((abs(decode(member, cv2.IMREAD_COLOR).astype(int) - BLUE) > NEAR).any(-1))


def plan(members):
    "The benchmark of unsupervised segmentation trains on the longest list, tstid, and tests on trnid."
    table = next((m for _, m in find(members, r'setid\.mat')), None)
    images, masks = by_name(find(members, r'jpg/image_(\d{5})\.jpg')), by_name(find(members, r'segmim/segmim_(\d{5})\.jpg'))
    if not images: return [], []
    if table is None: raise ValueError(f'setid.mat is missing; needed: {ORIGIN}')
    ids = [f'{i:05d}' for i in np.ravel(loadmat(io.BytesIO(table.read()))['trnid'])]
    named = lambda found: {f'image_{i}': found[i] for i in ids if i in found}
    return plan_pairs(named(images), named(masks), 'test_images', 'test_segmentations', TEST_IMAGES, not_blue)


@command(sources=dict(nargs='*', required=False))
def flowers(sources: str, # 102flowers.tgz, 102segmentations.tgz and setid.mat, or the folder they were unpacked to
            out: str = 'data', # folder for data sets
            partial: bool = False, # take what is there, even if something is missing
            download: bool = False): # fetch the archives into OUT/archives (540 MB)
    "Write OUT/Flowers/test_images/image_00001.jpg and OUT/Flowers/test_segmentations/image_00001.png (https://www.robots.ox.ac.uk/~vgg/data/flowers/102/)."
    prepare('Flowers', sources, out, plan, 'test_images', 'test_segmentations', ORIGIN, partial, download, PUBLISHED)


if __name__ == '__main__': flowers()
