"""FedPFT: clients tune a proxy that has every layer but few FFN neurons; what they tuned is plugged into the backbone.

Peng et al., FedPFT: Federated Proxy Fine-Tuning of Foundation Models, IJCAI 2024, arXiv:2404.11536. With θ what is
tuned, W the backbone, Ŵ the proxy, C the compressed layers, S_r the cohort of round r, R rounds, t = ``interval``:

    construct Ŵ:  for each layer in C
        score neuron j by ‖[w¹_j, w²_j]‖₂                              `scores.concat_l2`
        keep the ffn_keep · m neurons with the highest scores          `construct.choose`, `construct.make_proxy`
    align Ŵ with W on public data, before training
        Ŵ₂ ← ridge regression of the FFN's output (ours, not theirs)   `closed_form.refit_outputs`
        minimise 1/|C| Σ ‖T − H‖² / ‖T‖² + α·‖W₂W₁ − Ŵ₂Ŵ₁‖² / ‖W₂W₁‖²   `fedfm.proxies.distillation.distill`
    for r = 1 … R
        send θ to the cohort, and to each client what it misses of Ŵ   `versions.changes_since`
        each client c ∈ S_r, on Ŵ:  θ_c ← local training from θ        `fedfm.clients`, `versions.NeuronCopy`
        θ ← Σ n_c θ_c / Σ n_c                                          `fedfm.aggregation`
        plug θ into W, evaluate W                                      `fedfm.proxies.plugin.PlugIn.to_backbone`
        if t divides r and r < R: align Ŵ with W, both carrying θ      `model.FedPFTModel.advance`
            measure how little each neuron is used (APoZ)              `activity.usage_scores`
            choose the share p of them that is used least              `alignment.choose_neurons`
            refit these neurons as above; the others keep their bits   `alignment.align`

`settings.FedPFT` is the recipe's ``proxy``, `pair.FedPFTPair` the two models, `model.FedPFTModel` the server's side.
Where the released code departs from the paper, this code follows the paper; ``docs/proxies.md`` lists where.
"""
