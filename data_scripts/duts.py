"Prepare the test set of DUTS, DUTS-TE: images with the mask of what stands out."
from _prepare import IMAGE, by_name, command, find, plan_pairs, prepare

TEST_IMAGES = 5019
ORIGIN = 'DUTS-TE.zip of http://saliencydetection.net/duts/'
PUBLISHED = {'DUTS-TE.zip': ('http://saliencydetection.net/duts/download/DUTS-TE.zip', 'md5:ed8b6d5995132fb2900657e46a584923')}


def plan(members):
    return plan_pairs(by_name(find(members, f'DUTS-TE-Image/{IMAGE}')), by_name(find(members, f'DUTS-TE-Mask/{IMAGE}')),
                      'DUTS-TE/DUTS-TE-Image', 'DUTS-TE/DUTS-TE-Mask', TEST_IMAGES)


@command(sources=dict(nargs='*', required=False))
def duts(sources: str, # DUTS-TE.zip, or the folder it was unpacked to
         out: str = 'data', # folder for data sets
         partial: bool = False, # take what is there, even if something is missing
         download: bool = False): # fetch the archive into OUT/archives (140 MB)
    "Write OUT/DUTS/DUTS-TE/DUTS-TE-Image/NAME.jpg and OUT/DUTS/DUTS-TE/DUTS-TE-Mask/NAME.png (http://saliencydetection.net/duts/)."
    prepare('DUTS', sources, out, plan, 'DUTS-TE/DUTS-TE-Image', 'DUTS-TE/DUTS-TE-Mask', ORIGIN, partial, download, PUBLISHED)


if __name__ == '__main__': duts()
