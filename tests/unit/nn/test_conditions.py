

def test_a_condition_starts_as_short_as_an_embedding_of_bert():
    condition = Labels({"form": ["a", "b"], "dynasty": ["c"]}, dim=256)
    weights = torch.cat([table.weight.flatten() for table in condition.tables])
    assert weights.abs().max() <= 0.04
    assert 0.015 < weights.std() < 0.02  # 0.02, cut at twice as much
