"""BibTeX of the papers behind attacks, methods and diagnostics."""

from __future__ import annotations


def _entry(kind: str, key: str, author: str, title: str, where: str, year: int) -> str:
    field = "journal" if kind == "article" else "booktitle"
    return (f"@{kind}{{{key},\n  author = {{{author}}},\n  title = {{{{{title}}}}},\n"
            f"  {field} = {{{where}}},\n  year = {{{year}}},\n}}")  # fmt: skip


_PAPERS = (
    ("goodfellow2015", "Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian",
     "Explaining and Harnessing Adversarial Examples", "ICLR", 2015),
    ("madry2018", "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, "
     "Dimitris and Vladu, Adrian",
     "Towards Deep Learning Models Resistant to Adversarial Attacks", "ICLR", 2018),
    ("croce2020", "Croce, Francesco and Hein, Matthias",
     "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
     "Attacks", "ICML", 2020),
    ("croce2020fab", "Croce, Francesco and Hein, Matthias",
     "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack", "ICML", 2020),
    ("andriushchenko2020", "Andriushchenko, Maksym and Croce, Francesco and Flammarion, "
     "Nicolas and "
     "Hein, Matthias", "Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random "
     "Search", "ECCV", 2020),
    ("pintor2021", "Pintor, Maura and Roli, Fabio and Brendel, Wieland and Biggio, Battista",
     "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", "NeurIPS", 2021),
    ("zhang2019", "Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El "
     "Ghaoui, Laurent and Jordan, Michael I.",
     "Theoretically Principled Trade-off between Robustness and Accuracy", "ICML", 2019),
    ("wu2020", "Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen",
     "Adversarial Weight Perturbation Helps Robust Generalization", "NeurIPS", 2020),
    ("izmailov2018", "Izmailov, Pavel and Podoprikhin, Dmitrii and Garipov, Timur and Vetrov, "
     "Dmitry and Wilson, Andrew Gordon",
     "Averaging Weights Leads to Wider Optima and Better Generalization", "UAI", 2018),
    ("liu2020", "Liu, Chen and Salzmann, Mathieu and Lin, Tao and Tomioka, Ryota and "
     "S{\\\"u}sstrunk, Sabine",
     "On the Loss Landscape of Adversarial Training: Identifying Challenges and How to Overcome "
     "Them", "NeurIPS", 2020),
    ("rice2020", "Rice, Leslie and Wong, Eric and Kolter, J. Zico",
     "Overfitting in Adversarially Robust Deep Learning", "ICML", 2020),
    ("li2018", "Li, Hao and Xu, Zheng and Taylor, Gavin and Studer, Christoph and Goldstein, Tom",
     "Visualizing the Loss Landscape of Neural Nets", "NeurIPS", 2018),
    ("garipov2018", "Garipov, Timur and Izmailov, Pavel and Podoprikhin, Dmitrii and "
     "Vetrov, Dmitry "
     "and Wilson, Andrew Gordon",
     "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", "NeurIPS", 2018),
    ("ghorbani2019", "Ghorbani, Behrooz and Krishnan, Shankar and Xiao, Ying",
     "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density", "ICML", 2019),
    ("andriushchenko2023", "Andriushchenko, Maksym and Croce, Francesco and M{\\\"u}ller, "
     "Maximilian "
     "and Hein, Matthias and Flammarion, Nicolas",
     "A Modern Look at the Relationship between Sharpness and Generalization", "ICML", 2023),
    ("stutz2021", "Stutz, David and Hein, Matthias and Schiele, Bernt",
     "Relating Adversarially Robust Generalization to Flat Minima", "ICCV", 2021),
    ("kornblith2019", "Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and "
     "Hinton, Geoffrey",
     "Similarity of Neural Network Representations Revisited", "ICML", 2019),
    ("yin2019", "Yin, Dong and Gontijo Lopes, Raphael and Shlens, Jonathon and Cubuk, Ekin D. and "
     "Gilmer, Justin",
     "A Fourier Perspective on Model Robustness in Computer Vision", "NeurIPS", 2019),
    ("hendrycks2019", "Hendrycks, Dan and Dietterich, Thomas",
     "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
     "ICLR", 2019),
)  # fmt: skip
#: key -> BibTeX
REFERENCES = {key: _entry("inproceedings", key, *rest) for key, *rest in _PAPERS}
#: what stands in a recipe, or kind:KIND of a result, and the paper it refers to
USED = (
    ("FGSM(", "goodfellow2015"), ('"PGD(', "madry2018"), ("AutoAttack(", "croce2020"),
    ('"APGD', "croce2020"), ('"FAB(', "croce2020fab"), ('"Square(', "andriushchenko2020"),
    ('"FMN(', "pintor2021"), ('"trades"', "zhang2019"), ('"awp_gamma"', "wu2020"),
    ('"average": "swa"', "izmailov2018"), ('"pas', "liu2020"), ("kind:similarity", "liu2020"),
    ("kind:overfitting", "rice2020"), ("kind:scan", "li2018"), ("kind:curve", "garipov2018"),
    ('"density_probes"', "ghorbani2019"), ("kind:sharpness", "andriushchenko2023"),
    ("kind:sharpness", "stutz2021"), ("kind:cka", "kornblith2019"), ("kind:fourier", "yin2019"),
    ("kind:corruptions", "hendrycks2019"),
)  # fmt: skip
