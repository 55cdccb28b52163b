"Prepare ECSSD: images with the mask of what stands out."
from _prepare import by_name, command, find, plan_pairs, prepare

IMAGES = 1000
ORIGIN = 'images.zip and ground_truth_mask.zip of https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html'
PLACE = 'https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/data/ECSSD'
PUBLISHED = {'images.zip': (f'{PLACE}/images.zip', 'sha256:7d5dce1a21c6d82e2f9617c00ad7eae2de5ded9320e8c59a01b4c731d210ea47'),
             'ground_truth_mask.zip': (f'{PLACE}/ground_truth_mask.zip', 'sha256:dc0a9f11f2adee2737d95b28f9567a0a5de33f78743447c097ceb4d42f281a31')}


def plan(members):
    return plan_pairs(by_name(find(members, r'images/(\d+)\.jpg')), by_name(find(members, r'ground_truth_mask/(\d+)\.png')),
                      'images', 'ground_truth_mask', IMAGES)


@command(sources=dict(nargs='*', required=False))
def ecssd(sources: str, # images.zip and ground_truth_mask.zip, or the folder they were unpacked to
          out: str = 'data', # folder for data sets
          partial: bool = False, # take what is there, even if something is missing
          download: bool = False): # fetch the archives into OUT/archives (70 MB)
    "Write OUT/ECSSD/images/0001.jpg and OUT/ECSSD/ground_truth_mask/0001.png (https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html)."
    prepare('ECSSD', sources, out, plan, 'images', 'ground_truth_mask', ORIGIN, partial, download, PUBLISHED)


if __name__ == '__main__': ecssd()
