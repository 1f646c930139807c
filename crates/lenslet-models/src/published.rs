//! The weights that torchvision publishes for these models, by name.

use lenslet_data::Interpolation::{self, Bicubic, Bilinear};
use lenslet_data::{Preprocess, Resize};

use crate::Variant;

/// A published file of weights trained on ImageNet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedFile {
    /// The variant it is for.
    pub model: &'static str,
    /// torchvision's name for the weights.
    pub weights: &'static str,
    /// The file's name, which ends with the beginning of its SHA-256.
    pub file: &'static str,
    resize: usize,
    crop: usize,
    interpolation: Interpolation,
}

/// Where the files are.
pub const PUBLISHED_URL: &str = "https://download.pytorch.org/models/";

impl PublishedFile {
    /// The beginning of the file's SHA-256, in hexadecimal.
    pub fn sha256(&self) -> &'static str {
        let stem = self.file.strip_suffix(".pth").unwrap_or(self.file);
        stem.rsplit('-').next().unwrap_or(stem)
    }
}

impl Variant {
    /// Every set of weights published for this variant; torchvision's default is the last.
    pub fn published_files(&self) -> impl Iterator<Item = &'static PublishedFile> {
        FILES.iter().filter(|file| file.model == self.name)
    }

    /// The published weights called `name`: torchvision's name for them in any case
    /// (`IMAGENET1K_V1`), the file's, or `default`.
    pub fn published_file(&self, name: &str) -> Option<&'static PublishedFile> {
        if name.eq_ignore_ascii_case("default") {
            return self.published_files().last();
        }
        self.published_files()
            .find(|f| f.weights.eq_ignore_ascii_case(name) || f.file == name)
    }

    /// What is done to an image before a published set of weights sees it.
    pub fn preprocess_for(&self, file: &PublishedFile) -> Preprocess {
        Preprocess {
            resize: Resize::ShortSide(file.resize),
            crop: [file.crop; 2],
            interpolation: file.interpolation,
            ..self.preprocess
        }
    }
}

const fn file(
    model: &'static str,
    weights: &'static str,
    file: &'static str,
    (resize, crop, interpolation): (usize, usize, Interpolation),
) -> PublishedFile {
    PublishedFile {
        model,
        weights,
        file,
        resize,
        crop,
        interpolation,
    }
}

/// From the `Weights` classes of torchvision 0.29, the default of each model last.
#[rustfmt::skip]
static FILES: &[PublishedFile] = &[
    file("alexnet", "IMAGENET1K_V1", "alexnet-owt-7be5be79.pth", (256, 224, Bilinear)),
    file("convnext_base", "IMAGENET1K_V1", "convnext_base-6075fbad.pth", (232, 224, Bilinear)),
    file("convnext_large", "IMAGENET1K_V1", "convnext_large-ea097f82.pth", (232, 224, Bilinear)),
    file("convnext_small", "IMAGENET1K_V1", "convnext_small-0c510722.pth", (230, 224, Bilinear)),
    file("convnext_tiny", "IMAGENET1K_V1", "convnext_tiny-983f1562.pth", (236, 224, Bilinear)),
    file("densenet121", "IMAGENET1K_V1", "densenet121-a639ec97.pth", (256, 224, Bilinear)),
    file("densenet161", "IMAGENET1K_V1", "densenet161-8d451a50.pth", (256, 224, Bilinear)),
    file("densenet169", "IMAGENET1K_V1", "densenet169-b2777c0a.pth", (256, 224, Bilinear)),
    file("densenet201", "IMAGENET1K_V1", "densenet201-c1103571.pth", (256, 224, Bilinear)),
    file("efficientnet_b0", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", (256, 224, Bicubic)),
    file("efficientnet_b1", "IMAGENET1K_V1", "efficientnet_b1_rwightman-bac287d4.pth", (256, 240, Bicubic)),
    file("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth", (255, 240, Bilinear)),
    file("efficientnet_b2", "IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth", (288, 288, Bicubic)),
    file("efficientnet_b3", "IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth", (320, 300, Bicubic)),
    file("efficientnet_b4", "IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth", (384, 380, Bicubic)),
    file("efficientnet_b5", "IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth", (456, 456, Bicubic)),
    file("efficientnet_b6", "IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth", (528, 528, Bicubic)),
    file("efficientnet_b7", "IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", (600, 600, Bicubic)),
    file("efficientnet_v2_l", "IMAGENET1K_V1", "efficientnet_v2_l-59c71312.pth", (480, 480, Bicubic)),
    file("efficientnet_v2_m", "IMAGENET1K_V1", "efficientnet_v2_m-dc08266a.pth", (480, 480, Bilinear)),
    file("efficientnet_v2_s", "IMAGENET1K_V1", "efficientnet_v2_s-dd5fe13b.pth", (384, 384, Bilinear)),
    file("googlenet", "IMAGENET1K_V1", "googlenet-1378be20.pth", (256, 224, Bilinear)),
    file("inception_v3", "IMAGENET1K_V1", "inception_v3_google-0cc3c7bd.pth", (342, 299, Bilinear)),
    file("mnasnet1_0", "IMAGENET1K_V1", "mnasnet1.0_top1_73.512-f206786ef8.pth", (256, 224, Bilinear)),
    file("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", (256, 224, Bilinear)),
    file("mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth", (232, 224, Bilinear)),
    file("mobilenet_v3_large", "IMAGENET1K_V1", "mobilenet_v3_large-8738ca79.pth", (256, 224, Bilinear)),
    file("mobilenet_v3_large", "IMAGENET1K_V2", "mobilenet_v3_large-5c1a4163.pth", (232, 224, Bilinear)),
    file("mobilenet_v3_small", "IMAGENET1K_V1", "mobilenet_v3_small-047dcff4.pth", (256, 224, Bilinear)),
    file("regnet_y_400mf", "IMAGENET1K_V1", "regnet_y_400mf-c65dace8.pth", (256, 224, Bilinear)),
    file("regnet_y_400mf", "IMAGENET1K_V2", "regnet_y_400mf-e6988f5f.pth", (232, 224, Bilinear)),
    file("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", (256, 224, Bilinear)),
    file("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", (232, 224, Bilinear)),
    file("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", (256, 224, Bilinear)),
    file("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", (232, 224, Bilinear)),
    file("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", (256, 224, Bilinear)),
    file("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", (256, 224, Bilinear)),
    file("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", (256, 224, Bilinear)),
    file("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", (232, 224, Bilinear)),
    file("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", (256, 224, Bilinear)),
    file("resnext101_32x8d", "IMAGENET1K_V2", "resnext101_32x8d-110c445d.pth", (232, 224, Bilinear)),
    file("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", (256, 224, Bilinear)),
    file("resnext50_32x4d", "IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth", (232, 224, Bilinear)),
    file("shufflenet_v2_x1_0", "IMAGENET1K_V1", "shufflenetv2_x1-5666bf0f80.pth", (256, 224, Bilinear)),
    file("squeezenet1_0", "IMAGENET1K_V1", "squeezenet1_0-b66bff10.pth", (256, 224, Bilinear)),
    file("squeezenet1_1", "IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth", (256, 224, Bilinear)),
    file("swin_b", "IMAGENET1K_V1", "swin_b-68c6b09e.pth", (238, 224, Bicubic)),
    file("swin_s", "IMAGENET1K_V1", "swin_s-5e29d889.pth", (246, 224, Bicubic)),
    file("swin_t", "IMAGENET1K_V1", "swin_t-704ceda3.pth", (232, 224, Bicubic)),
    file("vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth", (256, 224, Bilinear)),
    file("vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth", (256, 224, Bilinear)),
    file("vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth", (256, 224, Bilinear)),
    file("vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth", (256, 224, Bilinear)),
    file("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth", (256, 224, Bilinear)),
    file("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", (256, 224, Bilinear)),
    file("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", (256, 224, Bilinear)),
    file("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth", (256, 224, Bilinear)),
    file("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", "vit_b_16_swag-9ac1b537.pth", (384, 384, Bicubic)),
    file("vit_b_16", "IMAGENET1K_SWAG_LINEAR_V1", "vit_b_16_lc_swag-4e70ced5.pth", (224, 224, Bicubic)),
    file("vit_b_16", "IMAGENET1K_V1", "vit_b_16-c867db91.pth", (256, 224, Bilinear)),
    file("vit_b_32", "IMAGENET1K_V1", "vit_b_32-d86f8d99.pth", (256, 224, Bilinear)),
    file("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1", "vit_h_14_lc_swag-c1eb923e.pth", (224, 224, Bicubic)),
    file("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", "vit_h_14_swag-80465313.pth", (518, 518, Bicubic)),
    file("vit_l_16", "IMAGENET1K_SWAG_E2E_V1", "vit_l_16_swag-4f3808c9.pth", (512, 512, Bicubic)),
    file("vit_l_16", "IMAGENET1K_SWAG_LINEAR_V1", "vit_l_16_lc_swag-4d563306.pth", (224, 224, Bicubic)),
    file("vit_l_16", "IMAGENET1K_V1", "vit_l_16-852ce7e3.pth", (242, 224, Bilinear)),
    file("vit_l_32", "IMAGENET1K_V1", "vit_l_32-c7638314.pth", (256, 224, Bilinear)),
    file("wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth", (256, 224, Bilinear)),
    file("wide_resnet101_2", "IMAGENET1K_V2", "wide_resnet101_2-d733dc28.pth", (232, 224, Bilinear)),
    file("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth", (256, 224, Bilinear)),
    file("wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth", (232, 224, Bilinear)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{variant, variants};

    #[test]
    fn every_file_belongs_to_a_variant_and_names_its_hash() {
        for file in FILES {
            assert!(variant(file.model).is_some(), "{}", file.model);
            let hash = file.sha256();
            assert!(hash.len() >= 8, "{}", file.file);
            assert!(hash.bytes().all(|b| b.is_ascii_hexdigit()), "{}", file.file);
        }
    }

    /// What the registry says of a variant is what its default weights want.
    #[test]
    fn the_default_weights_are_those_of_the_registry() {
        for variant in variants() {
            let Some(file) = variant.published_file("DEFAULT") else {
                continue;
            };
            let published = variant.published.map(|p| p.weights);
            assert_eq!(published, Some(file.weights), "{}", variant.name);
            assert_eq!(
                variant.preprocess_for(file),
                variant.preprocess,
                "{}",
                variant.name
            );
        }
    }

    #[test]
    fn weights_are_found_by_either_name() {
        let resnet = variant("resnet50").unwrap();
        let first = resnet.published_file("imagenet1k_v1").unwrap();
        assert_eq!(
            (first.file, first.sha256()),
            ("resnet50-0676ba61.pth", "0676ba61")
        );
        assert_eq!(resnet.published_file("resnet50-0676ba61.pth"), Some(first));
        assert_eq!(
            resnet.published_file("default").unwrap().weights,
            "IMAGENET1K_V2"
        );
        assert_eq!(resnet.published_file("resnet18-f37072fd.pth"), None);
    }
}
