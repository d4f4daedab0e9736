"""BibTeX of the papers behind attacks, methods and diagnostics."""

from __future__ import annotations


def _entry(key: str, author: str, title: str, where: str, year: int) -> str:
    article = where == "TMLR" or where.startswith("arXiv")
    kind, field = ("article", "journal") if article else ("inproceedings", "booktitle")
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
    ("li2020", "Li, Zichao and Liu, Liyuan and Dong, Chengyu and Shang, Jingbo",
     "Overfitting or Underfitting? Understand Robustness Drop in Adversarial Training",
     "arXiv 2010.08034", 2020),
    ("gowda2024", "Gowda, Shruthi and Zonooz, Bahram and Arani, Elahe",
     "Conserve-Update-Revise to Cure Generalization and Robustness Trade-off in Adversarial "
     "Training", "ICLR", 2024),
    ("ramkumar2024", "Ramkumar, Vijaya Raghavan T. and Zonooz, Bahram and Arani, Elahe",
     "The Effectiveness of Random Forgetting for Robust Generalization", "ICLR", 2024),
    ("lukasik2023", "Lukasik, Jovita and Gavrikov, Paul and Keuper, Janis and Keuper, Margret",
     "Improving Native CNN Robustness with Filter Frequency Regularization", "TMLR", 2023),
    ("foret2021", "Foret, Pierre and Kleiner, Ariel and Mobahi, Hossein and Neyshabur, Behnam",
     "Sharpness-Aware Minimization for Efficiently Improving Generalization", "ICLR", 2021),
    ("keskar2017", "Keskar, Nitish Shirish and Mudigere, Dheevatsa and Nocedal, Jorge and "
     "Smelyanskiy, Mikhail and Tang, Ping Tak Peter",
     "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", "ICLR",
     2017),
    ("kwon2021", "Kwon, Jungmin and Kim, Jeongseop and Park, Hyunseo and Choi, In Kwon",
     "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural "
     "Networks", "ICML", 2021),
    ("petzka2021", "Petzka, Henning and Kamp, Michael and Adilova, Linara and Sminchisescu, "
     "Cristian and Boley, Mario", "Relative Flatness and Generalization", "NeurIPS", 2021),
)  # fmt: skip
#: key -> BibTeX
REFERENCES = {key: _entry(key, *rest) for key, *rest in _PAPERS}
#: what stands in a recipe, kind:KIND of a result, or measure:NAME of one of sharpness, and the
#: paper it refers to
USED = (
    ("FGSM(", "goodfellow2015"), ('"PGD(', "madry2018"), ("AutoAttack(", "croce2020"),
    ('"APGD', "croce2020"), ('"FAB(', "croce2020fab"), ('"Square(', "andriushchenko2020"),
    ('"FMN(', "pintor2021"), ('"trades"', "zhang2019"), ('"awp_gamma"', "wu2020"),
    ('"average": "swa"', "izmailov2018"), ('"pas', "liu2020"),
    ('"method": "apart"', "li2020"), ('"method": "cure', "gowda2024"),
    ('"method": "fomo', "ramkumar2024"), ('"method": "frequency"', "lukasik2023"),
    ("kind:similarity", "liu2020"),
    ("kind:overfitting", "rice2020"), ("kind:scan", "li2018"), ("kind:curve", "garipov2018"),
    ('"density_probes"', "ghorbani2019"), ("kind:sharpness", "andriushchenko2023"),
    ("measure:sam", "foret2021"), ("measure:keskar", "keskar2017"),
    ("measure:adaptive_l2", "kwon2021"), ("measure:relative_flatness", "petzka2021"),
    ("measure:robust_flatness_average", "stutz2021"),
    ("measure:robust_flatness_worst", "stutz2021"),
    ("kind:cka", "kornblith2019"), ("kind:pairs", "kornblith2019"), ("kind:fourier", "yin2019"),
    ("kind:spectrum", "lukasik2023"), ("kind:corruptions", "hendrycks2019"),
)  # fmt: skip
