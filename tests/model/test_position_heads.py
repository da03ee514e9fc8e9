"""The formulas of both papers, written out entry by entry in float64."""

import math
import resource

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from halflabel.model.position_heads import CsraHead, MlDecoderHead


def randomised(head):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head.double().eval()


def array(tensor):
    return tensor.detach().numpy()


def csra_by_hand(x, weight, bias, temperatures, lam):
    images, positions, _ = x.shape
    heads, labels, _ = weight.shape
    logits = np.zeros((images, labels))
    for b in range(images):
        for i in range(labels):
            logits[b, i] = bias[i]
            for h in range(heads):
                scores = [float(weight[h, i] @ x[b, j]) for j in range(positions)]
                base = sum(scores) / positions
                if temperatures[h] == "max":
                    attended = max(scores)
                else:
                    powers = [math.exp(temperatures[h] * score) for score in scores]
                    attended = sum(p * s for p, s in zip(powers, scores, strict=True)) / sum(powers)
                logits[b, i] += base + lam * attended
    return logits


@pytest.mark.parametrize("temperatures", [[1], [0.5, 3, "max"], ["max"]])
def test_csra_is_the_formula_of_the_paper(temperatures):
    head = randomised(CsraHead(5, 3, temperatures=temperatures, lam=0.7))
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    assert head.weight.shape == (len(temperatures), 3, 5)
    expected = csra_by_hand(array(x), array(head.weight), array(head.bias), temperatures, 0.7)
    np.testing.assert_allclose(array(head(x)), expected, rtol=1e-12, atol=1e-12)


def test_csra_without_attention_is_linear_on_the_mean_position():
    head = randomised(CsraHead(5, 3, lam=0))
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(head(x), x.mean(1) @ head.weight[0].T + head.bias)


def test_csra_high_temperature_tends_to_the_maximum():
    sharp, highest = CsraHead(5, 3, temperatures=[1e4]), CsraHead(5, 3, temperatures=["max"])
    highest.load_state_dict(randomised(sharp).state_dict())
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(sharp(x), highest.double()(x), rtol=0, atol=1e-4)


def layer_norm(v, norm):
    return (v - v.mean()) / math.sqrt(v.var() + norm.eps) * array(norm.weight) + array(norm.bias)


def affine(v, layer):
    return array(layer.weight) @ v + (0 if layer.bias is None else array(layer.bias))


def ml_decoder_by_hand(head, x, heads, group_size):
    """One image: a query per group attends to the positions; the label's own vector reads its group's answer."""
    memory = [np.maximum(affine(position, head.embed), 0) for position in x]
    width = len(memory[0])
    part = width // heads
    answers = []
    for query in array(head.queries):
        q = affine(query, head.query)
        attended = np.zeros(width)
        for a in range(heads):
            place = slice(a * part, (a + 1) * part)
            scores = [float(q[place] @ affine(m, head.key)[place]) / math.sqrt(part) for m in memory]
            powers = [math.exp(score) for score in scores]
            for power, m in zip(powers, memory, strict=True):
                attended[place] += power / sum(powers) * affine(m, head.value)[place]
        h = layer_norm(query + affine(attended, head.out), head.attention_norm)
        answers.append(layer_norm(h + affine(np.maximum(affine(h, head.expand), 0), head.contract), head.feed_norm))
    weight, bias = array(head.weight), array(head.bias)
    return [float(weight[i] @ answers[i // group_size]) + bias[i] for i in range(len(weight))]


@pytest.mark.parametrize(("labels", "queries", "used"), [(3, 100, 3), (7, 3, 3), (9, 4, 3), (6, 3, 3), (5, 1, 1)])
@pytest.mark.parametrize("learn", [False, True])
def test_ml_decoder_is_the_formula_of_the_paper(labels, queries, used, learn):
    head = randomised(MlDecoderHead(5, labels, queries=queries, width=8, feed_forward=6, heads=2, learn_queries=learn))
    assert head.queries.shape == (used, 8)  # no query without labels
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = [ml_decoder_by_hand(head, array(image), 2, math.ceil(labels / used)) for image in x]
    np.testing.assert_allclose(array(head(x)), expected, rtol=1e-10, atol=1e-10)


def test_ml_decoder_queries_are_fixed_or_learned():
    for learn in (False, True):
        head = MlDecoderHead(5, 3, width=8, feed_forward=6, heads=2, learn_queries=learn)
        assert ("queries" in dict(head.named_parameters())) is learn
        assert "queries" in head.state_dict()


def test_ml_decoder_labels_appended_to_a_group_keep_the_others():
    """Labels 0, 1 | 2, 3 | 4 of five on three queries; a sixth joins the last group."""
    settings = {"queries": 3, "width": 8, "feed_forward": 6, "heads": 2}
    old = randomised(MlDecoderHead(5, 5, **settings)).float()
    new = MlDecoderHead(5, 6, **settings).eval()
    assert new.take_labels_(old, [0, 1, 2, 3, 4, None])
    x = torch.randn(4, 6, 5)
    torch.testing.assert_close(new(x)[:, :5], old(x), rtol=1e-6, atol=1e-6)
    larger = MlDecoderHead(5, 7, **settings)  # three labels a query: 2 would join 0 and 1
    assert not larger.take_labels_(old, [0, 1, 2, 3, 4, None, None])


def test_ml_decoder_answers_ten_thousand_labels():
    head = MlDecoderHead(64, 10_000, width=256, feed_forward=512)
    assert head.queries.shape == (100, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logits = head(torch.randn(8, 49, 64))
    assert logits.shape == (8, 10_000)
    binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
    assert (head.weight.grad.abs().amax(1) > 0).all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 2  # KiB -> GiB
