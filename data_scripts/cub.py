"Prepare the test images of CUB-200-2011 with their masks."
from _prepare import by_name, command, find, plan_pairs, prepare, read_list

TEST_IMAGES = 5794
ORIGIN = 'CUB_200_2011.tgz and segmentations.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011/'
PUBLISHED = {'CUB_200_2011.tgz': ('https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1', 'md5:97eceeb196236b17998738112f37df78'),
             'segmentations.tgz': ('https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1', 'md5:4d47ba1228eae64f2fa547c47bc65255')}


def test_names(members):
    "CLASS/NAME of the test images, and how many there have to be."
    names = {i: path.removesuffix('.jpg') for i, path in read_list(members, 'images.txt')}
    other = any(find(members, r'train_val_test_split\.txt'))
    marks = read_list(members, 'train_val_test_split.txt' if other else 'train_test_split.txt')
    test = [names[i] for i, mark in marks if mark == ('2' if other else '0')]
    return test, len(test) if other else TEST_IMAGES


def plan(members):
    "Test images and masks without the folders of their classes; the names of the files stay unique."
    if not any(find(members, r'images/[^/]+/[^/]+\.jpg')): return [], []
    names, expected = test_names(members)
    images = by_name(find(members, r'images/([^/]+/[^/]+)\.jpg'))
    masks = by_name(find(members, r'segmentations/([^/]+/[^/]+)\.png'))
    short = lambda found: {n.split('/')[1]: found[n] for n in names if n in found}
    jobs, missing = plan_pairs(short(images), short(masks), 'test_images', 'test_segmentations', expected)
    return jobs, missing + [f'no image {n}' for n in names if n not in images and n not in masks]


@command(sources=dict(nargs='*', required=False))
def cub(sources: str, # CUB_200_2011.tgz and segmentations.tgz, or the folder they were unpacked to
        out: str = 'data', # folder for data sets
        partial: bool = False, # take what is there, even if something is missing
        download: bool = False): # fetch the archives into OUT/archives (1.2 GB)
    "Write OUT/CUB_200_2011/test_images/NAME.jpg and OUT/CUB_200_2011/test_segmentations/NAME.png (https://www.vision.caltech.edu/datasets/cub_200_2011/)."
    prepare('CUB_200_2011', sources, out, plan, 'test_images', 'test_segmentations', ORIGIN, partial, download, PUBLISHED)


if __name__ == '__main__': cub()
