"""What the words of the page mean."""

from __future__ import annotations

HOW_TO_READ = """<h2>How to read this</h2>
<dl>
<dt>delta</dt><dd>Loss of an arm minus that of the baseline at the same seed, in nats per token: 0.01 nats are 1% of perplexity.
The same seed means the same batches and the same start of every weight that both have.</dd>
<dt>verdict</dt><dd><em>equivalent</em> if the 90% t interval lies within the margin; else <em>costs</em> or <em>helps</em> if the
Holm-adjusted p of the paired t test is under 0.05; else <em>undecided</em>, which is not "no effect". Below 8 seeds it is a
look.</dd>
<dt>BCa, sign flip</dt><dd>A bootstrap interval, which at few seeds is too narrow, and a test that takes differences to be
symmetric and nothing else, which with n seeds cannot go below 2 / 2<sup>n</sup>. They stand beside; the t interval decides.</dd>
<dt>g, P(worse), r</dt><dd>The mean in standard deviations, corrected for few seeds; the share of seeds at which the arm is
worse; how far the losses of arm and baseline go together over seeds, which is what pairing takes out.</dd>
<dt>detectable</dt><dd>The smallest true difference that so many seeds find with a power of 0.8 (one contrast, p &lt; 0.05).</dd>
<dt>equivalence, least margin</dt><dd>p of two one-sided tests at the margin, and the smallest margin at which the arm would be
called equivalent.</dd>
</dl>
"""
