"""Work is cut into spans that cover it, in whole blocks where a kernel wants them."""

from hypothesis import given
from hypothesis import strategies as st

from recon3d.kernels.threads import spans


@given(n=st.integers(0, 5000), parts=st.integers(1, 40), block=st.integers(1, 300))
def test_spans_cover_everything_once_in_whole_blocks(n, parts, block):
    found = spans(n, parts, block)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == n
    assert 1 <= len(found) <= parts and all(begin % block == 0 for begin, _ in found)
    blocks = [-(-(end - begin) // block) for begin, end in found]
    assert max(blocks) - min(blocks) <= 1
