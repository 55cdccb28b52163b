"Prepare DUT-OMRON: images with the mask of what stands out."
from _prepare import IMAGE, by_name, command, find, plan_pairs, prepare

IMAGES = 5168
ORIGIN = 'DUT-OMRON-image.zip and DUT-OMRON-gt-pixelwise.zip.zip of http://saliencydetection.net/dut-omron/'


def plan(members):
    return plan_pairs(by_name(find(members, f'DUT-OMRON-image/{IMAGE}')), by_name(find(members, f'pixelwiseGT-new-PNG/{IMAGE}')),
                      'DUT-OMRON-image', 'pixelwiseGT-new-PNG', IMAGES)


@command(sources=dict(nargs='+'))
def dut_omron(sources: str, # DUT-OMRON-image.zip and DUT-OMRON-gt-pixelwise.zip.zip, or the folder they were unpacked to
              out: str = 'data', # folder for data sets
              partial: bool = False): # take what is there, even if something is missing
    "Write OUT/DUT_OMRON/DUT-OMRON-image/NAME.jpg and OUT/DUT_OMRON/pixelwiseGT-new-PNG/NAME.png. The archives are at http://saliencydetection.net/dut-omron/"
    prepare('DUT_OMRON', sources, out, plan, 'DUT-OMRON-image', 'pixelwiseGT-new-PNG', ORIGIN, partial)


if __name__ == '__main__': dut_omron()
